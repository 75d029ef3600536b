"""Loading weights into a model: all of them, or none and an error that lists both sides."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .distributed import part_of
from .errors import CheckpointError, describe, itemise, shorten
from .reading import LazyWeights, open_weights


def check_fit(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    only: Collection[str] | None = None,
    allow_partial: bool = False,
) -> Mapping[str, Tensor]:
    """Refuse weights that do not fit a model name by name, shape by shape, and as floating point or not.

    Args:
        model: where they go. state: name to tensor. source: the file's name for messages.
        only: the names of the model that the weights are for; None for all.
        allow_partial: instead leave out what does not fit, and log how much that is.

    Returns:
        The weights that fit.

    Raises:
        CheckpointError: lists what only the model has, what only the file has, and both sides of the rest; with
            ``allow_partial``, nothing at all fits.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if only is None or name in only}
    part, kind = {name: tensor for name, tensor in state.items() if _fits(tensor, own.get(name))}, type(model).__name__
    if not allow_partial:
        problems = {
            'only in the model': {name: own[name] for name in sorted(own.keys() - state.keys())},
            'only in the file': {name: state[name] for name in sorted(state.keys() - own.keys())},
            'other shape or type': [
                f'{describe(f"{n} model", own[n])}, {describe("file", state[n])}'
                for n in sorted(own.keys() & state.keys() - part.keys())
            ],
        }
        if lines := itemise(problems):
            advice = 'Use the config that the weights were trained with, or set allow_partial=True to load what fits.'
            raise CheckpointError('\n  '.join([f'{source} does not fit {kind}, nothing was loaded', *lines, advice]))
        return state
    if not part:
        raise CheckpointError(f'{source}: none of its {len(state)} tensors fits {kind}; it has {shorten(state)}')
    print_log(
        f"{source}: loading {len(part)} of its {len(state)} tensors; {len(own) - len(part)} of the model's {len(own)} "
        'keep their values',
        logger='current',
    )
    return LazyWeights(state.path, part, state.read) if isinstance(state, LazyWeights) else part


def check_finite(state: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse weights, of any type, with a value that is no finite number; ``source`` names the file in the message."""
    if bad := [describe(name, tensor) for name, tensor in state.items() if not _finite(tensor)]:
        raise CheckpointError(
            f'{source}: NaN or infinite values in {shorten(bad)}. The training that wrote them had diverged, or the '
            'file is damaged; take an earlier checkpoint, or copy it again'
        )


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    if is_sharded(tensor):
        tensor = tensor.to_local()
        if not tensor.numel():
            return True
    # a minimum that is finite, and a maximum: one pass without a temporary, and NaN is passed on
    tensor = tensor.float() if tensor.element_size() == 1 else tensor
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor.detach()))


def _fits(tensor: Tensor, own: Tensor | None) -> bool:
    return own is not None and tensor.shape == own.shape and tensor.is_floating_point() == own.is_floating_point()


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    allow_partial: bool = False,
    only: Collection[str] | None = None,
) -> list[str]:
    """Put weights into a model, tensor by tensor: all of them, or none and an error.

    A parameter on the meta device takes the tensor itself, in its dtype in the file; into any other the numbers
    are copied. Of a parameter that lies on several processes, each reads its own part. With `LazyWeights` no more than
    one tensor is in memory beside the model.

    Args:
        model, state, source, allow_partial, only: as for `check_fit`; what ``only`` does not name is left alone.

    Returns:
        The names that were loaded.

    Raises:
        CheckpointError: the weights do not fit, or have NaN or infinite values (the model is then of no use).
    """
    state = check_fit(model, state, source, only, allow_partial)
    on_meta = {name for name, tensor in model.state_dict().items() if tensor.is_meta}
    if left := sorted(n for n in on_meta - state.keys() if only is None or n in only):
        raise CheckpointError(f'{source}: has no value for {shorten(left)}, which have none on the meta device either')
    read = state.read if isinstance(state, LazyWeights) else state.get
    own = model.state_dict()
    for name in state:
        if is_sharded(own[name]):
            _load_part(own[name], state, name, source)
            continue
        owner, _, leaf = name.rpartition('.')
        tensor = read(name)
        check_finite({name: tensor}, source)
        model.get_submodule(owner).load_state_dict({leaf: tensor}, strict=False, assign=name in on_meta)
        del tensor  # before the next one is read
    return list(state)


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor lies on several processes, each with a part of it."""
    return hasattr(tensor, 'device_mesh')


def _load_part(target: Tensor, state: Mapping[str, Tensor], name: str, source: str | Path) -> None:
    """Read of a tensor what is this process's."""
    if is_sharded(state[name]):  # it is the model's own
        return
    part = part_of(target)
    if all(side.start < side.stop for side in part):
        tensor = state.read_part(name, part) if isinstance(state, LazyWeights) else state[name][part]
        check_finite({name: tensor}, source)
        with torch.no_grad():
            target.to_local().copy_(tensor)


def load_into_meta(
    model: nn.Module, path: str | Path, prefix: str | None = None, dtype: torch.dtype | None = None
) -> None:
    """Give a model that was built under ``torch.device('meta')`` its weights, with at most one copy of them in memory.

    Args:
        model: on the meta device. path, prefix: see `open_weights` and `LazyWeights.under`.
        dtype: convert floating-point tensors to it, each as it is read; None keeps the file's.

    Raises:
        CheckpointError: the weights do not fit, or cannot be read.
        ValueError: a tensor that is no part of a checkpoint (a non-persistent buffer) is on the meta device too.
    """
    state = open_weights(path).under(prefix)
    load_weights(model, state.cast(dtype) if dtype else state, path)
    if left := [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]:
        raise ValueError(f'still on the meta device, since no checkpoint holds them: {shorten(left)}')
