"""Reading tensors of safetensors files into memory that is there already, again and again."""

import json
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import CheckpointError
from .fitting import check_finite
from .reading import LazyWeights, backbone_prefix, open_weights, weight_files

PIECE_BYTES = 2**25  # read and converted at a time
CONVERT = 'tools/convert_checkpoint.py'


class Place(NamedTuple):
    """Where a tensor lies: file and first byte."""

    file: Path
    start: int


class InPlaceReader:
    """Weights of a backbone in safetensors files, read into given tensors without memory of their own.

    safetensors' own reader puts every tensor into new memory; memory-mapped, it is killed by a file that somebody cuts
    off. So the bytes are read from where the file's header says that they are, straight into the tensor; into one of
    another type in pieces of `PIECE_BYTES`.

    To be used by one thread at a time.

    Args:
        path: a ``.safetensors`` file, or a folder or index of several.
        prefix: of the backbone's names there; None: ``backbone.`` where the file has it.

    Attributes:
        weights: the same tensors as `LazyWeights`, without the prefix.

    Raises:
        CheckpointError: a shard is missing or incomplete; a ``.pth``, which has to be converted first.
    """

    def __init__(self, path: str | Path, prefix: str | None = None) -> None:
        self.path = Path(path).expanduser()
        files = weight_files(self.path)
        if files[0].suffix not in ('.safetensors', '.json'):
            raise CheckpointError(
                f'{path}: only safetensors files can be read block by block. Convert it once: {CONVERT} {path} '
                f'{self.path.with_suffix(".safetensors")}'
            )
        weights = open_weights(self.path)  # checks every file
        prefix = backbone_prefix(weights, prefix)
        self.weights: LazyWeights = weights.under(prefix)
        self._open = {file: FileIO(file) for file in files if file.suffix == '.safetensors'}
        places = {name: place for file in self._open for name, place in _places(file).items()}
        self._places = {name: places[prefix + name] for name in self.weights}
        self._checked: set[str] = set()
        self._piece = torch.empty(0, dtype=torch.uint8)

    @torch.no_grad()
    def read_into(self, name: str, out: Tensor) -> None:
        """Fill a tensor with the stored numbers, which are converted to its type; of any device.

        Raises:
            CheckpointError: the file cannot be read; or the numbers are not finite, when they are read for the first
                time.
        """
        place, dtype = self._places[name], self.weights[name].dtype
        flat = out.detach().view(-1)
        step, itemsize = PIECE_BYTES // dtype.itemsize, dtype.itemsize
        direct = out.dtype == dtype and out.device.type == 'cpu'
        if not direct and not len(self._piece):
            self._piece = torch.empty(PIECE_BYTES, dtype=torch.uint8)
        for first in range(0, flat.numel(), step):
            part = flat[first : first + step]
            stored = part if direct else self._piece[: part.numel() * itemsize].view(dtype)
            self._fill(name, place, first * itemsize, stored)
            if not direct:
                part.copy_(stored)
            if name not in self._checked:
                check_finite({name: part}, place.file)
        self._checked.add(name)

    def _fill(self, name: str, place: Place, offset: int, stored: Tensor) -> None:
        room = memoryview(stored.view(torch.uint8).numpy())
        try:
            file = self._open[place.file]
            file.seek(place.start + offset)
            while len(room):
                count = file.readinto(room)
                if not count:
                    raise CheckpointError(f'{place.file}: ends within {name}: it has been cut off; copy it again')
                room = room[count:]
        except OSError as error:
            raise CheckpointError(f'{place.file}: {name} cannot be read ({error}); copy it again') from error


def _places(file: Path) -> dict[str, Place]:
    """From the header: its length in 8 bytes, then JSON with the bytes of each tensor."""
    try:
        with open(file, 'rb') as opened:
            length = int.from_bytes(opened.read(8), 'little')
            header = json.loads(opened.read(length))
        header.pop('__metadata__', None)
        return {name: Place(file, 8 + length + about['data_offsets'][0]) for name, about in header.items()}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f'{file}: its header cannot be read ({error!r}); copy it again') from error
