"""Checkpoints of what was trained, and the weights beside them that were not."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..checkpoint import CheckpointError, Reference, check_fit, load_weights, read_checkpoint, state_dict_of
from ..checkpoint.reading import BESIDE, is_distributed
from ..files import naming
from ..models.backbones.referenced import ENTRY, find_weights
from .config import name_weights
from .streaming import is_streamed, read_for

META = 'backbone'  # entry of a checkpoint's meta that holds the reference


def untrained_names(model: nn.Module) -> set[str]:
    """Names of a model's state dict that a checkpoint refers to instead of holding them."""
    backbone = getattr(model, 'backbone', None)
    names = backbone.referenced_names() if hasattr(backbone, 'referenced_names') else ()
    return {f'backbone.{name}' for name in names}


@contextmanager
def trained_alone(model: nn.Module, reference: Reference | None) -> Iterator[None]:
    """While it lasts, a model's state dict is without the names of `untrained_names`.

    The reference to them goes into its metadata, where `PlainBackbone` finds it, whoever loads the state dict.
    """
    names = untrained_names(model)

    def drop(module: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
        for name in names:
            state.pop(prefix + name, None)
        if reference is not None:
            state._metadata[f'{prefix}backbone'][ENTRY] = reference.to_dict()

    handle = model.register_state_dict_post_hook(drop)
    try:
        yield
    finally:
        handle.remove()


def reference_of(model: nn.Module) -> Reference | None:
    """What a checkpoint of a model refers to; None where all of it is trained."""
    return getattr(getattr(model, 'backbone', None), 'reference', None)


def complete(model: nn.Module, checkpoint: dict, source: str | Path) -> dict[str, Tensor]:
    """The whole state dict of a checkpoint, its backbone found again where it refers to one.

    Args:
        model: whose backbone is loaded with the weights that the checkpoint refers to, unless it has them already.
        checkpoint: from `read_checkpoint`.
        source: its file, for messages.

    Raises:
        CheckpointError: the weights are not found, or the model is configured with others; names both.
    """
    state = state_dict_of(checkpoint)
    stored = (checkpoint.get('meta') or {}).get(META)
    if stored is None and not is_streamed(model):
        return state
    if stored is None:
        model.backbone.init_weights()
        return {**_of_backbone(model), **state}
    try:
        wanted = Reference(**stored)
    except TypeError as error:
        raise CheckpointError(f'{source}: its reference to a backbone is damaged ({error})') from error
    if not hasattr(getattr(model, 'backbone', None), 'weights_source'):
        raise CheckpointError(f'{source}: refers to {wanted}, and {type(model).__name__} has no backbone to load it')
    find_weights(model.backbone, wanted, source)
    return {**_of_backbone(model), **state}


def _of_backbone(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith('backbone.')}


def config_in(path: str | Path) -> Config:
    """The config that a training has put into its checkpoint.

    Raises:
        CheckpointError: the checkpoint cannot be read, or holds none.
    """
    beside = Path(path, BESIDE) if is_distributed(path) else path  # without its tensors
    text = (read_checkpoint(beside).get('meta') or {}).get('cfg')
    if not isinstance(text, str):
        raise CheckpointError(f'{path}: holds weights without their config; name the config file in front of it')
    try:
        with naming(tempfile.gettempdir()):  # where mmengine reads a copy
            cfg = Config.fromstring(text, file_format='.py')
            cfg.strategy = None  # of the training
            return cfg
    except OSError:
        raise
    except Exception as error:  # it is a program
        raise CheckpointError(f'{path}: the config in it cannot be read ({error}); name the config file') from error


def load_model(cfg: Config, checkpoint: str | Path) -> nn.Module:
    """Build a config's model and load a checkpoint of it, whole or of what was trained.

    Raises:
        CheckpointError: the checkpoint cannot be read or does not fit, or see `complete`.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model = MODELS.build(cfg.model)
    with torch.no_grad():
        load_weights(model, complete(model, read_for(model, checkpoint), checkpoint), checkpoint)
    return model


def whole_checkpoint(path: str | Path, weights: str | None = None) -> dict | None:
    """A checkpoint with the weights that it refers to put in; None for one that is whole.

    Args:
        path: of a run, a ``.pth`` or a folder that several processes have written.
        weights: where the backbone's weights lie now, if not in their former place.

    Raises:
        CheckpointError: as `complete`, or it does not hold its config.
    """
    checkpoint = read_checkpoint(path)
    meta = checkpoint.get('meta') or {}
    if META not in meta:
        return None
    cfg = config_in(path)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    if weights:
        name_weights(cfg, weights)
    model = MODELS.build(cfg.model)
    state = complete(model, checkpoint, path)
    check_fit(model, state, path)
    return dict(meta={key: value for key, value in meta.items() if key != META}, state_dict=state)
