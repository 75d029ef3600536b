"""``--stream-weights``: testing, predicting and caching with a backbone that is larger than the memory."""

import argparse
from pathlib import Path

from mmengine.config import Config
from torch import nn

from ..checkpoint import CheckpointError, open_weights, read_checkpoint, state_dict_of
from .config import ConfigError

STREAMABLE = ('ViT22B', 'PlainViT')
PREFIX = 'backbone.'


def add_stream_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--stream-weights`` to a tool's arguments."""
    parser.add_argument(
        '--stream-weights',
        action='store_true',
        help='read the backbone block by block from safetensors files while computing: for more weights than memory',
    )


def stream_weights(cfg: Config, checkpoint: str | Path | None = None) -> None:
    """Let a config's model stream its backbone, frozen, from its weights or from a whole model's safetensors files.

    Args:
        cfg: as the tools have it, before test-time augmentation is put around the model.
        checkpoint: what is tested or predicted with.

    Raises:
        ConfigError: a backbone that cannot be streamed, or no backbone at all.
    """
    if cfg.get('runner_type') == 'CachedRunner' and checkpoint is not None:
        raise ConfigError('--stream-weights: with --regime cached no backbone runs; leave it out, or take frozen')
    if cfg.get('launcher', 'none') != 'none' or cfg.get('strategy'):
        raise ConfigError('--stream-weights: is for one process; leave out --launcher and --strategy, or the flag')
    backbone = cfg.model.backbone
    if backbone.type not in STREAMABLE:
        raise ConfigError(
            f'--stream-weights: works with {" and ".join(STREAMABLE)}, and the backbone is {backbone.type}, which is '
            'loaded as a whole; leave the flag out'
        )
    backbone.update(streamed=True, frozen=True)
    whole = checkpoint is not None and _is_safetensors(checkpoint)
    if whole and any(name.startswith(PREFIX) for name in open_weights(checkpoint)):
        backbone.init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint), prefix=PREFIX)


def is_streamed(model: nn.Module) -> bool:
    """Whether a model's backbone reads its weights while it runs."""
    return getattr(getattr(model, 'backbone', None), 'streamed', False)


def read_for(model: nn.Module, path: str | Path) -> dict:
    """`read_checkpoint`, without the weights that a streamed backbone reads itself.

    Raises:
        CheckpointError: as `read_checkpoint`; a ``.pth`` that holds a streamed backbone's weights.
    """
    if not is_streamed(model):
        return read_checkpoint(path)
    if _is_safetensors(path):
        weights = open_weights(path)
        return {'state_dict': {name: weights.read(name) for name in weights if not name.startswith(PREFIX)}}
    checkpoint = read_checkpoint(path)
    if any(name.startswith(f'{PREFIX}blocks.') for name in state_dict_of(checkpoint)):
        raise CheckpointError(
            f'{path}: holds the backbone, which can be streamed from safetensors files only. Convert it once: '
            f'tools/convert_checkpoint.py {path} {Path(path).with_suffix(".safetensors")}'
        )
    return checkpoint


def _is_safetensors(path: str | Path) -> bool:
    return Path(path).is_dir() or Path(path).name.endswith(('.safetensors', '.safetensors.index.json'))
