"""Loading weights into a model: all of them, or none and an error that lists both sides."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .errors import CheckpointError, is_weight, listing, shorten
from .reading import LazyWeights, read_pretrained
from .tensor_files import TensorInfo


def check_fit(
    model: nn.Module, state: Mapping[str, Tensor], source: str | Path, only: Collection[str] | None = None
) -> None:
    """Refuse weights that do not fit a model name by name, shape by shape, and as floating point or not.

    Args:
        model: where they go.
        state: name to tensor.
        source: the file's name for messages.
        only: the names of the model that the weights are for; None for all.

    Raises:
        CheckpointError: lists what only the model has, what only the file has, and both sides of the rest.
    """
    own, infos = _own(model, only), infos_of(state)
    both = sorted(own.keys() & infos.keys())
    missing = sorted(own.keys() - infos.keys())
    unexpected = sorted(infos.keys() - own.keys())
    shapes = [n for n in both if own[n].shape != infos[n].shape]
    types = [n for n in both if is_weight(own[n]) != is_weight(infos[n])]
    if not (missing or unexpected or shapes or types):
        return
    lines = [f'{source} does not fit {type(model).__name__}, nothing was loaded']
    if missing:
        lines.append(f'  only in the model ({len(missing)}): {listing({n: own[n] for n in missing})}')
    if unexpected:
        lines.append(f'  only in the file ({len(unexpected)}): {listing({n: infos[n] for n in unexpected})}')
    if shapes:
        sides = [f'{n} model {tuple(own[n].shape)}, file {tuple(infos[n].shape)}' for n in shapes]
        lines.append(f'  other shape ({len(shapes)}): {shorten(sides)}')
    if types:
        sides = [f'{n} model {own[n].dtype}, file {infos[n].dtype}' for n in types]
        lines.append(f'  other type ({len(types)}): {shorten(sides)}')
    lines.append('  Use the config that the weights were trained with, or set allow_partial=True to load what fits.')
    raise CheckpointError('\n'.join(lines))


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    allow_partial: bool = False,
    only: Collection[str] | None = None,
) -> list[str]:
    """Put weights into a model, tensor by tensor: all of them, or none and an error.

    A parameter on the meta device takes the tensor itself, in its dtype in the file; into any other the numbers
    are copied. With `LazyWeights` no more than one tensor is in memory beside the model.

    Args:
        model: where to.
        state: name to tensor.
        source: the file's name for messages.
        allow_partial: load what fits by name and shape, and say how much that was.
        only: the names of the model that the weights are for; the others are left alone. None for all.

    Returns:
        The names that were loaded.

    Raises:
        CheckpointError: the weights do not fit; or with ``allow_partial`` nothing at all does.
    """
    if allow_partial:
        names = fitting_names(model, state, source)
    else:
        check_fit(model, state, source, only)
        names = list(state)
    own = _own(model, only)
    if left := sorted(n for n in own.keys() - set(names) if own[n].is_meta):
        raise CheckpointError(f'{source}: has no value for {shorten(left)}, which have none on the meta device either')
    for name in names:
        if own[name].is_meta:
            _assign(model, name, state[name])
        else:
            own[name].copy_(state[name])
    return names


def _own(model: nn.Module, only: Collection[str] | None) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if only is None or name in only}


def load_into_meta(
    model: nn.Module, path: str | Path, prefix: str | None = None, dtype: torch.dtype | None = None
) -> None:
    """Give a model that was built on the meta device its weights, with at most one copy of them in memory.

    Args:
        model: built under ``torch.device('meta')``.
        path: a checkpoint of any format; see `read_pretrained`, also for ``prefix``.
        dtype: convert floating-point tensors to it, each as it is read; None keeps the file's.

    Raises:
        CheckpointError: the weights do not fit, or cannot be read.
        ValueError: a tensor that is no part of a checkpoint (a non-persistent buffer) is on the meta device too.
    """
    state = read_pretrained(path, prefix)
    check_fit(model, state, path)
    for name in state:
        tensor = state[name]
        _assign(model, name, tensor.to(dtype) if dtype and is_weight(tensor) else tensor)
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if left:
        raise ValueError(f'still on the meta device, since no checkpoint holds them: {shorten(left)}')


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition('.')
    module = model.get_submodule(owner)
    if leaf in module._parameters:
        tensor = nn.Parameter(tensor, requires_grad=module._parameters[leaf].requires_grad)
    setattr(module, leaf, tensor)


def infos_of(state: Mapping[str, Tensor]) -> Mapping[str, Tensor | TensorInfo]:
    """Names with shapes and dtypes, without reading a tensor where that can be avoided."""
    return state.infos if isinstance(state, LazyWeights) else state


def fitting_part(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """The weights that fit a model by name and shape; the others are counted in the log.

    Raises:
        CheckpointError: nothing fits.
    """
    return {name: state[name] for name in fitting_names(model, state, source)}


def fitting_names(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> list[str]:
    """The names of `fitting_part`."""
    own, infos = model.state_dict(), infos_of(state)
    fitting = [
        n for n, t in infos.items() if n in own and own[n].shape == t.shape and is_weight(own[n]) == is_weight(t)
    ]
    if not fitting:
        raise CheckpointError(
            f'{source}: none of its {len(infos)} tensors fits {type(model).__name__}; it has {listing(infos)}'
        )
    print_log(
        f'{source}: loading {len(fitting)} of its {len(infos)} tensors; {len(own) - len(fitting)} of the '
        f"model's {len(own)} keep their values",
        logger='current',
    )
    return fitting
