"""Checkpoints that several processes write together: folders of PyTorch's distributed checkpoint, read in any parts.

The tensors of a model lie under ``state_dict.NAME``, those of its optimiser under ``optimizer.NAME.KIND``. What is no
tensor lies in `BESIDE`, as a ``.pth`` holds it.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, LoadPlan
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from .errors import CheckpointError, shorten
from .reading import BESIDE, LazyWeights, Part

INDEX = '.metadata'  # as PyTorch names it
HARMLESS = {  # what an index is made of
    'pathlib.PosixPath', 'torch.Size', 'torch.serialization._get_layout',
    'torch.distributed.checkpoint.filesystem._StorageInfo',
    *(f'{dcp.__name__}.{name}' for name in (
        'Metadata', 'MetadataIndex', 'TensorStorageMetadata', 'TensorProperties', 'ChunkStorageMetadata',
        'BytesStorageMetadata', 'StorageMeta', '_MEM_FORMAT_ENCODING',
    )),
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Reads an index, which is a pickle, without running code from it."""

    def find_class(self, module: str, name: str) -> Any:
        harmless = f'{module}.{name}' in HARMLESS or (
            module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype)
        )
        if not harmless:
            raise pickle.UnpicklingError(f'{module}.{name}')
        return super().find_class(module, name)


class _Boxes(DefaultLoadPlanner):
    """Tells PyTorch's reader where the parts go that it reads: into one tensor."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.target = target

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """The place of one stored piece."""
        place = tuple(slice(o, o + n) for o, n in zip(read_item.dest_offsets, read_item.lengths, strict=True))
        return self.target[place] if place else self.target

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Nothing is left to do."""


def open_distributed(path: str | Path, section: str = 'state_dict') -> LazyWeights:
    """Open the tensors of a section, ``'state_dict'`` or ``'optimizer'``; any part of each can be read.

    Raises:
        CheckpointError: the folder is not whole, or its index is no plain one.
    """
    path = Path(path)
    reader = _reader(path)
    head = f'{section}.'
    stored = {
        name.removeprefix(head): info
        for name, info in reader.metadata.state_dict_metadata.items()
        if name.startswith(head) and isinstance(info, dcp.TensorStorageMetadata)
    }
    infos = {name: torch.empty(info.size, dtype=info.properties.dtype, device='meta') for name, info in stored.items()}

    def read_part(name: str, part: Part) -> Tensor:
        start = torch.Size(s.start for s in part)
        size = torch.Size(s.stop - s.start for s in part)
        target = torch.empty(size, dtype=infos[name].dtype)
        box = dcp.ChunkStorageMetadata(offsets=start, sizes=size)
        items = create_read_items_for_chunk_list(head + name, stored[name], [box]) if target.numel() else []
        try:
            reader.read_data(LoadPlan(items), _Boxes(target))
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            raise CheckpointError(f'{path}: {name} cannot be read ({error}); copy it again') from error
        return target

    def read(name: str) -> Tensor:
        return read_part(name, tuple(slice(0, n) for n in infos[name].shape))

    return LazyWeights(path, infos, read, read_part=read_part)


def as_of_one_process(path: str | Path, beside: dict) -> dict:
    """The state of an optimiser as one process stores it: mmengine's, with numbers in place of names.

    Args:
        path: a folder that several processes have written.
        beside: what it has under ``optimizer`` beside the tensors: ``groups``, each with its ``params`` by name.

    Raises:
        CheckpointError: see `open_distributed`.
    """
    numbers = {name: i for i, name in enumerate(name for group in beside['groups'] for name in group['params'])}
    state: dict[int, dict[str, Tensor]] = {}
    stored = open_distributed(path, 'optimizer')
    for key in stored:
        name, _, kind = key.rpartition('.')
        state.setdefault(numbers[name], {})[kind] = stored.read(key)
    groups = [dict(group, params=[numbers[name] for name in group['params']]) for group in beside['groups']]
    rest = {key: value for key, value in beside.items() if key != 'groups'}
    return dict(rest, state=state, param_groups=groups)


def _reader(path: Path) -> FileSystemReader:
    """PyTorch's reader of a whole checkpoint, with its ``metadata``."""
    try:
        with open(path / INDEX, 'rb') as file:
            metadata = _Unpickler(file).load()
        pieces = metadata.storage_data.values()
        ends = {piece.relative_path: 0 for piece in pieces}
        for piece in pieces:
            ends[piece.relative_path] = max(ends[piece.relative_path], piece.offset + piece.length)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f'{path}: refused: reading its index could run code ({error})') from error
    except Exception as error:  # a damaged pickle may end in any
        raise CheckpointError(f'{path}: not a whole distributed checkpoint ({error}); copy it again') from error
    lacking = [name for name in (*ends, BESIDE) if not (path / name).is_file()]
    short = [name for name, end in ends.items() if name not in lacking and (path / name).stat().st_size < end]
    short += [BESIDE] if BESIDE not in lacking and not zipfile.is_zipfile(path / BESIDE) else []
    if lacking or short:
        raise CheckpointError(
            f'{path}: not a whole distributed checkpoint, it lacks {shorten([*lacking, *short])}; copy it again'
        )
    reader = FileSystemReader(path)
    reader.metadata = metadata
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    return reader


def part_of(tensor: DTensor) -> Part:
    """Which part of a tensor that lies on several processes is this one's."""
    shape, start = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(slice(o, o + n) for o, n in zip(start, shape, strict=True))
