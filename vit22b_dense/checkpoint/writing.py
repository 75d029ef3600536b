"""Writing weights of every format: whole or not at all, and safetensors tensor by tensor."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, TensorSpec
from torch import Tensor

from ..files import sweep, written_whole
from .errors import CheckpointError, human, shorten
from .reading import INDEX, LazyWeights

Progress = Callable[[int, int], None]


def write_weights(
    path: str | Path,
    weights: LazyWeights,
    max_shard_bytes: int = 5 * 10**9,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a checkpoint under a temporary name beside, and rename it when it is whole.

    The name decides the format: ``.safetensors``; ``.pth``, as mmengine has it; else a folder of shards with an
    index. The safetensors formats stream: one tensor is in memory at a time. A ``.pth`` needs all of them at once.

    Args:
        path: the destination.
        weights: what to write; a ``.pth`` takes their ``meta`` too.
        max_shard_bytes: a shard's most, unless a single tensor is larger.
        overwrite: replace what is there; a folder only where it holds nothing but a sharded checkpoint.
        progress: called with bytes done and bytes in all after each tensor.

    Raises:
        CheckpointError: the destination exists, the disk is full, a type that the format cannot hold, or from reading
            the weights. The destination is then as it was.
    """
    path, total, done = Path(path), sum(info.nbytes for info in weights.values()), 0
    sweep(path.parent)
    _check_destination(path, overwrite, total)

    def read(name: str) -> Tensor:
        nonlocal done
        tensor = weights.read(name).detach().contiguous()
        done += tensor.nbytes
        if progress and total:
            progress(done, total)
        # A part of a larger storage would be saved with all of it.
        return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()

    try:
        with written_whole(path, overwrite) as beside:
            if path.suffix == '.pth':
                torch.save(dict(meta=weights.meta, state_dict={name: read(name) for name in weights}), beside)
            elif path.suffix == '.safetensors':
                _write_file(beside, weights, read)
            else:
                _write_shards(beside, weights, max_shard_bytes, read)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
        raise CheckpointError(
            f'{path}: cannot be written ({error}); it takes {human(total)}. Nothing is left of the attempt'
        ) from error


def _check_destination(path: Path, overwrite: bool, total: int) -> None:
    held = sorted(path.iterdir()) if path.is_dir() else []
    if foreign := [p.name for p in held if not p.name.endswith(('.safetensors', INDEX)) or p.is_dir()]:
        raise CheckpointError(f'{path}: is not replaced, it holds {shorten(foreign)}; choose another name')
    if os.path.lexists(path) and not overwrite:
        raise CheckpointError(f'{path}: exists; choose another name, or --overwrite')
    free = shutil.disk_usage(next(p for p in path.absolute().parents if p.exists())).free
    if free < total:
        raise CheckpointError(f'{path}: needs {human(total)}, its disk has {human(free)} left; nothing was written')


def _write_file(path: Path, infos: Mapping[str, Tensor], read: Callable[[str], Tensor]) -> None:
    """The library's ``save_file`` needs all tensors at once; here each is read when its turn comes."""
    # Larger types first, so that every tensor begins at a multiple of its type's size, as the library writes it.
    names = sorted(infos, key=lambda name: -infos[name].itemsize)
    header, end = {'__metadata__': {'format': 'pt'}}, 0
    for name in names:
        info = infos[name]
        start, end = end, end + info.nbytes
        spec = TensorSpec(dtype=str(info.dtype)[6:], shape=info.shape, data_ptr=0, data_len=info.nbytes)
        header[name] = dict(dtype=spec.dtype, shape=spec.shape, data_offsets=[start, end])
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for name in names:
            if infos[name].numel():
                file.write(memoryview(read(name).reshape(-1).view(torch.uint8).numpy()))


def _write_shards(
    folder: Path, infos: Mapping[str, Tensor], max_shard_bytes: int, read: Callable[[str], Tensor]
) -> None:
    shards, size = [{}], 0
    for name, info in infos.items():
        size += info.nbytes
        if size > max_shard_bytes and shards[-1]:
            shards.append({})
            size = info.nbytes
        shards[-1][name] = info
    folder.mkdir()
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        name = f'model-{i:05d}-of-{len(shards):05d}.safetensors'
        _write_file(folder / name, shard, read)
        weight_map |= dict.fromkeys(shard, name)
    metadata = dict(total_size=sum(info.nbytes for info in infos.values()))
    (folder / f'model{INDEX}').write_text(json.dumps(dict(metadata=metadata, weight_map=weight_map), indent=2) + '\n')
