"""Weights that a checkpoint refers to instead of holding them, found again for a backbone."""

from pathlib import Path

from torch import nn

from ...checkpoint import CheckpointError, Reference

ENTRY = 'reference'  # of the backbone's part of a state dict's metadata


def find_weights(backbone: nn.Module, wanted: Reference, source: str | Path) -> None:
    """Load a backbone with the weights that a checkpoint refers to.

    Args:
        backbone: a `PlainBackbone`.
        wanted: the weights.
        source: the checkpoint's name for messages.

    Raises:
        CheckpointError: they are not found, or the backbone is configured with others; names both.
    """
    configured = backbone.weights_source
    if configured['kind'] == 'random' and wanted.kind == 'random':
        backbone.draw_weights(wanted.seed)
        return
    if configured['kind'] == 'random' and wanted.kind == 'file':  # no weights were named
        if not wanted.found():
            raise CheckpointError(
                f'{source}: was trained on the frozen backbone {wanted}, which is no longer there. Name its new place '
                'with --weights; for mmseg.apis, make the checkpoint whole with tools/convert_checkpoint.py'
            )
        backbone.load_pretrained(wanted.name)
        return
    here = backbone.reference or Reference.of(configured)
    if not wanted.same_weights(here):
        raise CheckpointError(
            f'{source}: was trained on the frozen backbone {wanted}, and this run has {here}. Name the right weights '
            'with --weights'
        )
    backbone.init_weights()
