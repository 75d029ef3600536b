"""Writing weights of every format: whole or not at all, and safetensors tensor by tensor."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..files import written_whole
from .errors import CheckpointError, describe, human, shorten
from .planning import Read, Target
from .tensor_files import DTYPES, INDEX

CODES = {dtype: code for code, dtype in DTYPES.items()}
Progress = Callable[[int, int], None]


def write_weights(
    path: str | Path,
    targets: Sequence[Target],
    read: Read,
    max_shard_bytes: int = 5 * 10**9,
    overwrite: bool = False,
    meta: dict | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a checkpoint under a temporary name beside, and rename it when it is whole.

    The name decides the format: ``.safetensors``; ``.pth``, as mmengine has it; else a folder of shards with an
    index. The safetensors formats stream: one target is in memory at a time. A ``.pth`` needs all of them at once,
    those apart that ``read`` gives memory-mapped.

    Args:
        path: the destination.
        targets: what to write.
        read: the source's tensors by name.
        max_shard_bytes: a shard's most, unless a single tensor is larger.
        overwrite: replace what is there; a folder only where it holds nothing but a sharded checkpoint.
        meta: mmengine's ``meta`` entry, for a ``.pth``.
        progress: called with bytes done and bytes in all after each tensor.

    Raises:
        CheckpointError: the destination exists, the disk is full, a type that the format cannot hold, a value too
            large for the type asked for. The destination is then as it was.
    """
    path = Path(path)
    check_destination(path, overwrite)
    names = [t.name for t in targets]
    if len(set(names)) < len(names):
        raise CheckpointError(f'{path}: two tensors would have the same name')
    total = sum(t.info.nbytes for t in targets)
    _check_space(path, total)
    done = 0

    def made(target: Target) -> Tensor:
        nonlocal done
        tensor = _cast(target.make(read), target)
        done += target.info.nbytes
        if progress and total:
            progress(done, total)
        return tensor

    try:
        with written_whole(path, overwrite) as beside:
            if path.suffix == '.pth':
                state = {t.name: made(t) for t in targets}
                _save(dict(meta=meta or {}, state_dict=state), beside)
            elif path.suffix == '.safetensors':
                _write_file(beside, targets, made)
            else:
                _write_folder(beside, targets, made, max_shard_bytes)
    except FileExistsError as error:
        raise CheckpointError(f'{path}: has come to exist meanwhile; nothing was written') from error
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        reason = 'the disk is full' if full else error.strerror or str(error)
        raise CheckpointError(
            f'{path}: cannot be written, {reason}; it takes {human(total)}. Nothing is left of the attempt'
        ) from error


def check_destination(path: Path, overwrite: bool) -> None:
    """Refuse a destination that exists, or that must not be replaced.

    Raises:
        CheckpointError: it does.
    """
    if not os.path.lexists(path):
        return
    if path.is_dir():
        foreign = [p.name for p in path.iterdir() if not p.name.endswith(('.safetensors', INDEX)) or p.is_dir()]
        if path.suffix in {'.pth', '.safetensors'} or foreign:
            held = f' that also holds {shorten(sorted(foreign))}' if foreign else ''
            raise CheckpointError(f'{path}: is a folder{held} and is not replaced; choose another name')
    if not overwrite:
        raise CheckpointError(f'{path}: exists; choose another name, or --overwrite')


def _check_space(path: Path, total: int) -> None:
    folder = next(p for p in path.absolute().parents if p.exists())
    free = shutil.disk_usage(folder).free
    if free < total:
        raise CheckpointError(
            f'{path}: needs {human(total)}, and its disk has {human(free)} left; nothing was written'
        )


def _save(content: dict, path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:  # how torch reports a full disk
        reason = f'a write failed, as on a full disk ({str(error).splitlines()[0]})'
        raise OSError(None, reason) from error


def _cast(tensor: Tensor, target: Target) -> Tensor:
    if tensor.dtype != target.info.dtype:
        cast = tensor.to(target.info.dtype)
        if target.info.dtype == torch.float16 and not torch.equal(cast.isfinite(), tensor.isfinite()):
            raise CheckpointError(f'{target.name} holds values too large for float16; choose bfloat16')
        tensor = cast
    tensor = tensor.detach().contiguous()
    # A part of a larger storage would be saved with all of it.
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _write_file(path: Path, targets: Sequence[Target], made: Callable[[Target], Tensor]) -> None:
    """The header follows from names, shapes and types alone, so that the data can follow tensor by tensor."""
    # Larger types first, so that every tensor begins at a multiple of its type's size, as the library writes it.
    targets = sorted(targets, key=lambda t: -t.info.dtype.itemsize)
    header: dict[str, dict] = {'__metadata__': {'format': 'pt'}}
    start = 0
    for target in targets:
        shape, dtype = target.info.shape, target.info.dtype
        if dtype not in CODES:
            raise CheckpointError(f'{describe(target.name, shape, dtype)}: safetensors cannot hold this type')
        end = start + target.info.nbytes
        header[target.name] = dict(dtype=CODES[dtype], shape=shape, data_offsets=[start, end])
        start = end
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for target in targets:
            tensor = made(target)
            if tensor.shape != target.info.shape or tensor.dtype != target.info.dtype:
                raise AssertionError(f'{target.name}: {tensor.shape} {tensor.dtype} is not what was planned')
            if tensor.numel():
                file.write(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))


def _write_folder(
    folder: Path, targets: Sequence[Target], made: Callable[[Target], Tensor], max_shard_bytes: int
) -> None:
    shards: list[list[Target]] = []
    size = 0
    for target in targets:
        if not shards or size + target.info.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(target)
        size += target.info.nbytes
    folder.mkdir()
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        name = f'model-{i:05d}-of-{len(shards):05d}.safetensors'
        _write_file(folder / name, shard, made)
        weight_map.update({t.name: name for t in shard})
    metadata = dict(total_size=sum(t.info.nbytes for t in targets))
    index = dict(metadata=metadata, weight_map=dict(sorted(weight_map.items())))
    (folder / f'model{INDEX}').write_text(json.dumps(index, indent=2) + '\n')
