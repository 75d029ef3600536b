"""Reading weights of every format: safe to open, complete or refused, each tensor when it is asked for."""

import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import get_torch_safe_globals
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import CheckpointError, shorten

INDEX = '.safetensors.index.json'
# What has been read of a mapped file stays resident, so the map is replaced by a new one after this many bytes.
REMAP_BYTES = 32 * 2**20
Part = tuple[slice, ...]  # of a tensor: one slice with start and stop for each dimension
# A folder that several processes have written (see `distributed`), and what lies in it beside the tensors.
DISTRIBUTED = '.dcp'
BESIDE = 'beside.pth'


class LazyWeights(dict[str, Tensor]):
    """A state dict on the meta device, whose tensors can be read one by one.

    Args:
        path: where they are stored, for messages.
        infos: name to shape and dtype, as tensors on the meta device.
        read: from a name to its tensor, in memory of its own.
        meta: mmengine's ``meta`` entry of a ``.pth``.
        read_part: reads a part of a tensor alone, where the format can.
    """

    def __init__(
        self,
        path: Path,
        infos: Mapping[str, Tensor],
        read: Callable[[str], Tensor],
        meta: dict | None = None,
        read_part: Callable[[str, Part], Tensor] | None = None,
    ) -> None:
        super().__init__(infos)
        self.path, self.meta, self._read, self._read_part = path, meta or {}, read, read_part

    def read(self, name: str) -> Tensor:
        """The tensor of a name, from the file unless another one has been set."""
        tensor = self._read(name) if self[name].is_meta else self[name]
        if (tensor.shape, tensor.dtype) != (self[name].shape, self[name].dtype):
            raise CheckpointError(f'{self.path}: {name} has changed since the file was opened')
        return tensor

    def read_part(self, name: str, part: Part) -> Tensor:
        """A part of a tensor, without reading all of it where the format allows that."""
        if self._read_part is None or not self[name].is_meta:
            return self.read(name)[part]
        return self._read_part(name, part)

    def under(self, prefix: str | None) -> 'LazyWeights':
        """The weights whose names begin with a prefix, without it; a `CheckpointError` where there are none.

        None: those of the backbone, which the checkpoint holds alone or, under ``backbone.``, inside a whole model.
        """
        prefix = backbone_prefix(self, prefix)
        infos = {name.removeprefix(prefix): info for name, info in self.items() if name.startswith(prefix)}
        if not infos:
            raise CheckpointError(f'{self.path}: no tensor begins with {prefix!r}; it has {shorten(self)}')
        return LazyWeights(
            self.path,
            infos,
            lambda name: self.read(prefix + name),
            self.meta,
            lambda name, part: self.read_part(prefix + name, part),
        )

    def cast(self, dtype: torch.dtype) -> 'LazyWeights':
        """The weights in another floating-point type; reading one too large for float16 is a `CheckpointError`."""

        def convert(name: str, tensor: Tensor) -> Tensor:
            cast = tensor.to(dtype) if tensor.is_floating_point() else tensor
            if cast.dtype == torch.float16 and not cast.is_meta and not cast.isfinite().equal(tensor.isfinite()):
                raise CheckpointError(f'{self.path}: {name} holds values too large for float16; choose bfloat16')
            return cast

        infos = {name: convert(name, info) for name, info in self.items()}
        return LazyWeights(
            self.path,
            infos,
            lambda name: convert(name, self.read(name)),
            self.meta,
            lambda name, part: convert(name, self.read_part(name, part)),
        )


def is_distributed(path: str | Path) -> bool:
    """Whether a path is a folder that several processes have written, whole or not."""
    return Path(path).suffix == DISTRIBUTED and Path(path).is_dir()


def weight_files(path: str | Path) -> list[Path]:
    """The files of stored weights: a single one, or an index and its shards.

    Args:
        path: ``.safetensors``, a folder or index of its shards, or a ``.pth``.

    Raises:
        CheckpointError: a file is missing, or which ones to take is not clear.
    """
    path = Path(path).expanduser()
    if is_distributed(path):
        return [path / BESIDE, *sorted(path.glob('*.distcp'))]
    if path.is_dir():
        found = sorted(path.glob(f'*{INDEX}')) or sorted(path.glob('*.safetensors'))
        found = [file for file in found if file.name.startswith('model.safetensors')] or found  # as transformers does
        if len(found) != 1:
            several = f'several files and no index of all: {shorten(file.name for file in found)}'
            raise CheckpointError(f'{path}: holds {several if found else "no .safetensors"}; give one file or index')
        path = found[0]
    if not path.is_file():
        raise CheckpointError(f'{path}: no such checkpoint file')
    if not path.name.endswith(INDEX):
        return [path]
    shards = sorted({path.parent / shard for shard in _weight_map(path).values()})
    if outside := [str(file) for file in shards if file.parent != path.parent]:
        raise CheckpointError(f'{path}: names shards outside of its folder: {shorten(outside)}')
    if absent := [file.name for file in shards if not file.is_file()]:
        raise CheckpointError(f'{path}: {len(absent)} of its {len(shards)} shards are missing: {shorten(absent)}')
    return [path, *shards]


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return {name: str(Path(shard)) for name, shard in json.loads(index.read_text())['weight_map'].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f'{index}: not an index of shards ({error!r}); copy it again') from error


def open_weights(path: str | Path) -> LazyWeights:
    """Open weights of any format without loading them; ``path`` as for `weight_files`.

    Raises:
        CheckpointError: missing, truncated, of another kind, a pickle that needs code execution, or shards and
            index that do not belong together.
    """
    if is_distributed(path):
        from .distributed import open_distributed  # which imports this module

        return open_distributed(path)
    first, *shards = weight_files(path)
    if not shards:
        return _open_file(first) if first.suffix == '.safetensors' else _open_pickle(first)
    named, files = _weight_map(first), {shard.name: _open_file(shard) for shard in shards}
    held = {name: shard for shard, file in files.items() for name in file}
    if apart := sorted(f'{name} in {shard}' for name, shard in named.items() ^ held.items()):
        raise CheckpointError(f'{first}: index and shards disagree about {shorten(apart)}; fetch all of them again')
    infos = {name: file[name] for file in files.values() for name in file}
    return LazyWeights(
        first.parent,
        infos,
        lambda name: files[held[name]].read(name),
        read_part=lambda name, part: files[held[name]].read_part(name, part),
    )


def backbone_prefix(names: Iterable[str], prefix: str | None) -> str:
    """What a backbone's names begin with: the given prefix, or for None ``backbone.`` where there are such names."""
    if prefix is None:
        return 'backbone.' if any(name.startswith('backbone.') for name in names) else ''
    return f'{prefix}.' if prefix and not prefix.endswith('.') else prefix


def read_checkpoint(path: str | Path) -> dict:
    """Read weights and, from a ``.pth`` written by PyTorch or mmengine, what lies beside; no code is run from it.

    Returns:
        What a ``.pth`` holds, its tensors memory-mapped; ``{'state_dict': …}`` for safetensors. Of a folder that
        several processes have written, all but the tensors of the optimiser.

    Raises:
        CheckpointError: see `open_weights`, also for ``path``.
    """
    if is_distributed(path):
        weights = open_weights(path)
        return {**read_checkpoint(weights.path / BESIDE), 'state_dict': {n: weights.read(n) for n in weights}}
    path = weight_files(path)[0]
    if path.name.endswith(('.safetensors', INDEX)):
        weights = open_weights(path)
        return {'state_dict': {name: weights.read(name) for name in weights}}
    allowed = [item for item in get_torch_safe_globals() if item is not getattr]
    # mmengine's log buffers pickle their methods through getattr; plain getattr would open every door.
    allowed.append((_history_method, 'builtins.getattr'))
    try:
        with torch.serialization.safe_globals(allowed):
            # Only PyTorch's zip format can be mapped; older files are loaded whole.
            checkpoint = torch.load(path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f'{path}: refused, because it is not plain weights: reading it could run code ({reason}). Where you trust '
            'its origin, load it there with torch and save its state_dict as .safetensors'
        ) from error
    except Exception as error:  # a damaged pickle may end in any
        reason = f'{type(error).__name__}: {error}'
        raise CheckpointError(
            f'{path}: cannot be read as a checkpoint ({reason}); is it one, and is the copy complete?'
        ) from error
    if not isinstance(checkpoint, Mapping) or not all(isinstance(name, str) for name in _inner(checkpoint)):
        raise CheckpointError(f'{path}: holds a {type(checkpoint).__name__}, not a state dict: names and tensors')
    if not isinstance(checkpoint.get('meta') or {}, dict):
        raise CheckpointError(f'{path}: its meta is a {type(checkpoint["meta"]).__name__}, not a dictionary')
    return checkpoint


def _history_method(owner: type, name: str) -> object:
    if owner is not HistoryBuffer or name not in {'mean', 'max', 'min', 'current'}:
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) in a checkpoint')
    return getattr(HistoryBuffer, name)


def state_dict_of(checkpoint: Mapping) -> dict[str, Tensor]:
    """The tensors of a checkpoint, whether they lie under ``state_dict``, ``model`` or at the top."""
    inner = _inner(checkpoint)
    return {name.removeprefix('module.'): value for name, value in inner.items() if isinstance(value, Tensor)}


def _inner(checkpoint: Mapping) -> Mapping:
    return next((checkpoint[k] for k in ('state_dict', 'model') if isinstance(checkpoint.get(k), Mapping)), checkpoint)


def _open_pickle(path: Path) -> LazyWeights:
    checkpoint = read_checkpoint(path)
    state, seen = state_dict_of(checkpoint), 0
    if odd := {name: tensor for name, tensor in state.items() if tensor.layout is not torch.strided}:
        raise CheckpointError(f'{path}: not dense tensors: {shorten(odd)}')
    infos = {name: torch.empty_like(tensor, device='meta') for name, tensor in state.items()}

    def read(name: str) -> Tensor:
        nonlocal state, seen
        seen += infos[name].nbytes
        if seen > REMAP_BYTES and zipfile.is_zipfile(path):
            state, seen = state_dict_of(read_checkpoint(path)), infos[name].nbytes
        return state[name].detach().clone(memory_format=torch.contiguous_format)

    return LazyWeights(path, infos, read, checkpoint.get('meta'))


def _open_file(path: Path) -> LazyWeights:
    try:
        # Read, not mapped: a file that is overwritten later could then change or crash the process.
        file = safe_open(path, framework='pt', backend='pread')
        infos = {name: _info(file, name) for name in file.offset_keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'{path}: not a complete safetensors file ({error}); copy it again') from error

    def read(name: str, part: Part = ()) -> Tensor:
        try:
            return file.get_slice(name)[part] if part else file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f'{path}: {name} cannot be read ({error}); copy it again') from error

    return LazyWeights(path, infos, read, read_part=read)


def _info(file: safe_open, name: str) -> Tensor:
    """A stored tensor on the meta device, of which next to nothing is read."""
    stored = file.get_slice(name)
    shape = stored.get_shape()
    some = stored[:0] if shape and 0 not in shape else file.get_tensor(name)
    return torch.empty(shape, dtype=some.dtype, device='meta')
