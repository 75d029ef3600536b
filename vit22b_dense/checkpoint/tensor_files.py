"""safetensors on disk, one file or a folder of shards: names without loading, and one tensor at a time."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import CheckpointError, shorten

INDEX = '.safetensors.index.json'
# The format's names, in the order of its specification.
DTYPES = {
    'F64': torch.float64, 'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16,
    'F8_E4M3': torch.float8_e4m3fn, 'F8_E5M2': torch.float8_e5m2, 'I64': torch.int64, 'I32': torch.int32,
    'I16': torch.int16, 'I8': torch.int8, 'U8': torch.uint8, 'U16': torch.uint16, 'U32': torch.uint32,
    'U64': torch.uint64, 'BOOL': torch.bool, 'C64': torch.complex64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a stored tensor before it is read.

    Attributes:
        shape: its sizes. dtype: its type.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFile:
    """One ``.safetensors`` file.

    `read` copies a tensor's bytes from the file into memory of its own, instead of mapping the file: a process
    then needs exactly what it keeps, and a file that is replaced later cannot change or crash it.

    Attributes:
        path: the file. infos: name to `TensorInfo`, in the order of the data.

    Raises:
        CheckpointError: no such file, or not a complete safetensors file.

    Source: the safetensors format (8 bytes length, JSON header, data), https://huggingface.co/docs/safetensors.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise CheckpointError(f'{self.path}: no such checkpoint file')
        try:
            with safe_open(self.path, framework='pt'):  # the library's checks: header, offsets, length of the file
                pass
            with open(self.path, 'rb') as file:
                length = int.from_bytes(file.read(8), 'little')
                header = json.loads(file.read(length))
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f'{self.path}: not a complete safetensors file ({error}); copy it again') from error
        header.pop('__metadata__', None)
        unknown = {name: entry['dtype'] for name, entry in header.items() if entry['dtype'] not in DTYPES}
        if unknown:
            raise CheckpointError(f'{self.path}: tensors of types that are not known here: {unknown}')
        ordered = sorted(header.items(), key=lambda item: item[1]['data_offsets'])
        self.infos = {name: TensorInfo(tuple(e['shape']), DTYPES[e['dtype']]) for name, e in ordered}
        self._start = {name: 8 + length + entry['data_offsets'][0] for name, entry in header.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own.

        Raises:
            CheckpointError: the file has become shorter, or cannot be read.
        """
        info = self.infos[name]
        tensor = torch.empty(info.shape, dtype=info.dtype)
        left = memoryview(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else memoryview(b'')
        try:
            with open(self.path, 'rb', buffering=0) as file:
                file.seek(self._start[name])
                while left:
                    count = file.readinto(left)  # the system returns at most 2 GiB at once
                    if not count:
                        raise CheckpointError(f'{self.path}: ends inside of {name}; copy it again')
                    left = left[count:]
        except OSError as error:
            raise CheckpointError(f'{self.path}: cannot be read ({error.strerror})') from error
        return tensor


class TensorFolder:
    """A folder of ``.safetensors`` shards with an index, as the Hugging Face hub has it.

    Args:
        path: the folder, or its ``*.safetensors.index.json``. A folder with a single ``.safetensors`` file needs
            no index.

    Attributes:
        path: the folder. infos: name to `TensorInfo`, shard by shard.

    Raises:
        CheckpointError: no index or several, a missing or truncated shard, an index that names an absent tensor,
            a tensor that the index does not name.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if path.name.endswith(INDEX):
            self.path, index = path.parent, path
            if not path.is_file():
                raise CheckpointError(f'{path}: no such index')
        else:
            self.path, index = path, _find_index(path)
        self._files: dict[str, TensorFile] = {}
        if index is None:
            only = TensorFile(next(path.glob('*.safetensors')))
            self._files = dict.fromkeys(only.infos, only)
        else:
            self._open_shards(index)
        self.infos = {name: file.infos[name] for name, file in self._files.items()}

    def _open_shards(self, index: Path) -> None:
        try:
            weight_map = json.loads(index.read_text())['weight_map']
            shards = {name: Path(shard) for name, shard in weight_map.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f'{index}: not an index of shards ({error!r}); copy it again') from error
        outside = sorted({str(s) for s in shards.values() if s.name != str(s)})
        if outside:
            raise CheckpointError(f'{index}: names shards outside of its folder: {shorten(outside)}')
        files = {shard: self.path / shard for shard in dict.fromkeys(sorted(shards.values()))}
        absent = [str(file) for file in files.values() if not file.is_file()]
        if absent:
            raise CheckpointError(
                f'{index}: {len(absent)} of its {len(files)} shards are missing: {shorten(absent)}; fetch them'
            )
        opened = {shard: TensorFile(file) for shard, file in files.items()}
        for shard, file in opened.items():
            named = {name for name, where in shards.items() if where == shard}
            if lacking := sorted(named - file.infos.keys()):
                raise CheckpointError(
                    f'{index}: names tensors that {file.path.name} does not hold: {shorten(lacking)}; index and '
                    'shards are not of one checkpoint, fetch both again'
                )
            if unnamed := sorted(file.infos.keys() - named):
                raise CheckpointError(
                    f'{file.path}: holds tensors that {index.name} does not name there: {shorten(unnamed)}; index and '
                    'shards are not of one checkpoint, fetch both again'
                )
            self._files.update(dict.fromkeys(file.infos, file))

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own; see `TensorFile.read`."""
        return self._files[name].read(name)


def is_sharded(path: Path) -> bool:
    """Whether a path is a folder or an index of shards."""
    return path.is_dir() or path.name.endswith(INDEX)


def _find_index(folder: Path) -> Path | None:
    indices, files = sorted(folder.glob(f'*{INDEX}')), sorted(folder.glob('*.safetensors'))
    if len(indices) > 1:
        raise CheckpointError(f'{folder}: several indices, give one of them: {shorten([i.name for i in indices])}')
    if not indices and len(files) != 1:
        what = 'no .safetensors file' if not files else f'{len(files)} .safetensors files without an index'
        raise CheckpointError(f'{folder}: {what} (*{INDEX}); give the file, or fetch the index')
    return indices[0] if indices else None
