"""Reading weights: safe to open, complete or refused, with errors that name the file."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner.checkpoint import CheckpointLoader, get_torch_safe_globals
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import UserError


class CheckpointError(UserError):
    """A weight file that cannot be read, is not safe to read, or does not fit the model."""


def read_checkpoint(path: str | Path, map_location: str | torch.device | None = 'cpu') -> dict:
    """Read a ``.safetensors`` file or a ``.pth`` written by PyTorch or mmengine, without running code from it.

    Args:
        path: the file.
        map_location: where the tensors go, as for ``torch.load``.

    Returns:
        What a ``.pth`` holds; ``{'state_dict': …}`` for safetensors.

    Raises:
        CheckpointError: no such file, truncated, of another kind, or a pickle that needs code execution.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f'{path}: no such checkpoint file')
    if path.suffix == '.safetensors':
        try:
            return {'state_dict': load_file(path, device=str(map_location or 'cpu'))}
        except SafetensorError as error:
            raise CheckpointError(f'{path}: not a complete safetensors file ({error}); copy it again') from error
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
@CheckpointLoader.register_scheme(prefixes='', force=True)
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


def read_pretrained(path: str | Path, prefix: str | None = None) -> dict[str, Tensor]:
    """The weights of a backbone from a file that holds it alone or inside a whole model.

    Args:
        path: ``.safetensors`` or ``.pth``.
        prefix: keep what begins with it, without it. None: ``backbone.`` where the file has such names.

    Raises:
        CheckpointError: no tensor begins with ``prefix``; or see `read_checkpoint`.
    """
    state = state_dict_of(read_checkpoint(path))
    if prefix is None:
        prefix = 'backbone.' if any(name.startswith('backbone.') for name in state) else ''
    if prefix and not prefix.endswith('.'):
        prefix += '.'
    kept = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not kept:
        raise CheckpointError(f'{path}: no tensor begins with {prefix!r}; it has {_listing(state)}')
    return kept


def check_fit(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse weights that do not fit a model name by name and shape by shape.

    Raises:
        CheckpointError: lists what only the model has, what only the file has, and both shapes of the rest.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    shapes = [n for n in sorted(own.keys() & state.keys()) if own[n].shape != state[n].shape]
    if not (missing or unexpected or shapes):
        return
    lines = [f'{source} does not fit {type(model).__name__}, nothing was loaded']
    if missing:
        lines.append(f'  only in the model ({len(missing)}): {_listing({n: own[n] for n in missing})}')
    if unexpected:
        lines.append(f'  only in the file ({len(unexpected)}): {_listing({n: state[n] for n in unexpected})}')
    if shapes:
        both = [f'{n} model {tuple(own[n].shape)}, file {tuple(state[n].shape)}' for n in shapes]
        lines.append(f'  other shape ({len(shapes)}): {_shorten(both)}')
    lines.append('  Use the config that the weights were trained with, or set allow_partial=True to load what fits.')
    raise CheckpointError('\n'.join(lines))


def load_weights(
    model: nn.Module, state: Mapping[str, Tensor], source: str | Path, allow_partial: bool = False
) -> None:
    """Copy weights into a model: all of them, or none and an error.

    Args:
        model: where to.
        state: name to tensor.
        source: the file's name for messages.
        allow_partial: load what fits by name and shape, and say how much that was.

    Raises:
        CheckpointError: the weights do not fit; or with ``allow_partial`` nothing at all does.
    """
    if allow_partial:
        fitting = fitting_part(model, state, source)
        model.load_state_dict(fitting, strict=False)
        return
    check_fit(model, state, source)
    model.load_state_dict(state)


def fitting_part(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """The weights that fit a model by name and shape; the others are counted in the log.

    Raises:
        CheckpointError: nothing fits.
    """
    own = model.state_dict()
    fitting = {n: t for n, t in state.items() if n in own and own[n].shape == t.shape}
    if not fitting:
        raise CheckpointError(
            f'{source}: none of its {len(state)} tensors fits {type(model).__name__}; it has {_listing(state)}'
        )
    print_log(
        f'{source}: loading {len(fitting)} of its {len(state)} tensors; {len(own) - len(fitting)} of the '
        f"model's {len(own)} keep their values",
        logger='current',
    )
    return fitting


def _listing(tensors: Mapping[str, Tensor]) -> str:
    return _shorten([f'{name} {tuple(tensor.shape)}' for name, tensor in tensors.items()])


def _shorten(items: list[str], most: int = 8) -> str:
    rest = f', … and {len(items) - most} more' if len(items) > most else ''
    return ', '.join(items[:most]) + rest
