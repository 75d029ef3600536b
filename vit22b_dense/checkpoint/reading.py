"""Reading weights of every format: safe to open, complete or refused, with errors that name the file."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import get_torch_safe_globals
from torch import Tensor

from .errors import CheckpointError, describe, listing
from .tensor_files import TensorFile, TensorFolder, TensorInfo, is_sharded

REMAP_BYTES = 32 * 2**20


def read_checkpoint(path: str | Path, map_location: str | torch.device | None = 'cpu') -> dict:
    """Read weights and, from a ``.pth`` written by PyTorch or mmengine, what lies beside; no code is run from it.

    Args:
        path: ``.safetensors``, a folder or index of its shards, or a ``.pth``.
        map_location: where the tensors go, as for ``torch.load``.

    Returns:
        What a ``.pth`` holds; ``{'state_dict': …}`` for safetensors.

    Raises:
        CheckpointError: no such file, truncated, of another kind, or a pickle that needs code execution.
    """
    path = Path(path).expanduser()
    if is_sharded(path) or path.suffix == '.safetensors':
        stored = open_weights(path)
        return {'state_dict': {name: stored.read(name).to(map_location or 'cpu') for name in stored.infos}}
    if not path.is_file():
        raise CheckpointError(f'{path}: no such checkpoint file')
    allowed = [item for item in get_torch_safe_globals() if item is not getattr]
    # mmengine's log buffers pickle their methods through getattr; plain getattr would open every door.
    allowed.append((_history_method, 'builtins.getattr'))
    # Memory-mapped, a file is never in memory twice. Only PyTorch's zip format on the CPU can be.
    mmap = zipfile.is_zipfile(path) and torch.device(map_location or 'cpu').type == 'cpu'
    try:
        with torch.serialization.safe_globals(allowed):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f'{path}: refused, because it is not plain weights: reading it could run code ({reason}). Where you trust '
            'its origin, load it there with torch and save its state_dict as .safetensors'
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f'{path}: cannot be read as a checkpoint ({error}); is the copy complete?') from error
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f'{path}: holds a {type(checkpoint).__name__}, not a state dict')
    return checkpoint


def _history_method(owner: type, name: str) -> object:
    if owner is not HistoryBuffer or name not in {'mean', 'max', 'min', 'current'}:
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) in a checkpoint')
    return getattr(HistoryBuffer, name)


# Every checkpoint that mmengine opens from a local path (test, load_from, resume) goes through this reader too:
# its own falls back to running the pickle.
def load_from_local(filename: str, map_location: str | torch.device | None) -> dict:
    """mmengine's local loader, replaced by `read_checkpoint`."""
    return read_checkpoint(filename, map_location)


def state_dict_of(checkpoint: Mapping) -> dict[str, Tensor]:
    """The tensors of a checkpoint, whether they lie under ``state_dict``, ``model`` or at the top."""
    for key in ('state_dict', 'model'):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    return {name.removeprefix('module.'): value for name, value in checkpoint.items() if isinstance(value, Tensor)}


class PickledFile:
    """A ``.pth``, memory-mapped: the same view of it as `TensorFile` gives of safetensors.

    What has been read of a mapped file stays resident, so the mapping is made anew every `REMAP_BYTES`. Files older
    than PyTorch's zip format cannot be mapped and are loaded whole.

    Attributes:
        path: the file. infos: name to `TensorInfo`. meta: mmengine's ``meta`` entry, or empty.

    Raises:
        CheckpointError: see `read_checkpoint`; a tensor that is not dense.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        checkpoint = read_checkpoint(self.path)
        self.meta = checkpoint['meta'] if isinstance(checkpoint.get('meta'), dict) else {}
        self._state = state_dict_of(checkpoint)
        self._mapped = zipfile.is_zipfile(self.path)
        self._seen = 0
        self.infos = {}
        for name, tensor in self._state.items():
            if tensor.layout is not torch.strided or tensor.is_quantized:
                raise CheckpointError(f'{path}: {describe(name, tensor.shape)} is not a dense tensor')
            self.infos[name] = TensorInfo(tuple(tensor.shape), tensor.dtype)

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        self._seen += self.infos[name].nbytes
        if self._mapped and self._seen > REMAP_BYTES:
            self._state = state_dict_of(read_checkpoint(self.path))
            self._seen = self.infos[name].nbytes
        return self._state[name].detach().clone(memory_format=torch.contiguous_format)

    def mapped(self, name: str) -> Tensor:
        """One tensor as it lies in the mapped file: no memory of its own until it is changed."""
        return self._state[name].detach()


WeightSource = TensorFile | TensorFolder | PickledFile


def open_weights(path: str | Path) -> WeightSource:
    """Open weights of any format without loading them.

    Args:
        path: ``.safetensors``, a folder or index of its shards, or a ``.pth``.

    Returns:
        An object with ``path``, ``infos`` (name to shape and dtype) and ``read(name)``.

    Raises:
        CheckpointError: missing, truncated, of another kind, a pickle that needs code execution, or shards and
            index that do not belong together.
    """
    path = Path(path).expanduser()
    if is_sharded(path):
        return TensorFolder(path)
    if path.suffix == '.safetensors' or not path.is_file():
        return TensorFile(path)
    return PickledFile(path)


class LazyWeights(MutableMapping):
    """Weights by name that are read when they are asked for; what is set replaces what is stored.

    Args:
        source: where they lie.
        names: the name here to the name there.

    Attributes:
        infos: name to what has ``shape`` and ``dtype``.
    """

    def __init__(self, source: WeightSource, names: Mapping[str, str]) -> None:
        self._source = source
        self._names = dict(names)
        self._set = {}
        self.infos = {name: source.infos[stored] for name, stored in self._names.items()}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._set:
            return self._set[name]
        return self._source.read(self._names[name])

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        self._set[name] = self.infos[name] = tensor

    def __delitem__(self, name: str) -> None:
        del self.infos[name]
        self._set.pop(name, None)
        self._names.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def __contains__(self, name: object) -> bool:
        return name in self.infos


def read_pretrained(path: str | Path, prefix: str | None = None) -> LazyWeights:
    """The weights of a backbone from a checkpoint that holds it alone or inside a whole model.

    Args:
        path: ``.safetensors``, a folder or index of its shards, or a ``.pth``.
        prefix: keep what begins with it, without it. None: ``backbone.`` where the file has such names.

    Returns:
        Name to tensor; a tensor is read when it is asked for.

    Raises:
        CheckpointError: no tensor begins with ``prefix``; or see `open_weights`.
    """
    stored = open_weights(path)
    if prefix is None:
        prefix = 'backbone.' if any(name.startswith('backbone.') for name in stored.infos) else ''
    if prefix and not prefix.endswith('.'):
        prefix += '.'
    kept = {name.removeprefix(prefix): name for name in stored.infos if name.startswith(prefix)}
    if not kept:
        raise CheckpointError(f'{path}: no tensor begins with {prefix!r}; it has {listing(stored.infos)}')
    return LazyWeights(stored, kept)


def weight_files(path: Path) -> list[Path]:
    """temporary"""
    path = Path(path)
    if path.is_dir():
        return sorted(path.glob('*.safetensors*'))
    if not path.is_file():
        raise CheckpointError(f'{path}: no such checkpoint file')
    return [path]
