"""Attention pooling (MAP head): one vector of an image from the tokens of a feature map."""

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..backbones.norm import LayerNorm


@MODELS.register_module()
class AttentionPool(BaseModule):
    """A learned probe attends to all tokens, followed by an MLP with a residual connection.

    ``y = attention(probe, tokens, tokens); y + mlp(norm(y))``, with PyTorch's multi-head attention.

    Shapes: B batch, D ``in_channels``.

    Args:
        in_channels: D, the width of the feature map.
        head_dims: channels of a head; must divide D.
        in_index: which of the backbone's maps is read.
        init_cfg: mmengine's.

    Raises:
        ValueError: ``head_dims`` does not divide D.

    Source: Set Transformer, arXiv 1810.00825 (pooling by attention); Scaling ViT, arXiv 2106.04560 (MAP head); the MLP
    as in big_vision's ``MAPHead``.
    """

    def __init__(
        self, in_channels: int, head_dims: int = 64, in_index: int = -1, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        if in_channels % head_dims:
            raise ValueError(f'head_dims={head_dims} must divide in_channels={in_channels}')
        self.in_index = in_index
        self.probe_token = nn.Parameter(torch.empty(1, 1, in_channels))
        nn.init.xavier_uniform_(self.probe_token)
        self.attention = nn.MultiheadAttention(in_channels, in_channels // head_dims, batch_first=True)
        self.norm = LayerNorm(in_channels)
        self.mlp = nn.Sequential(
            nn.Linear(in_channels, 4 * in_channels), nn.GELU(), nn.Linear(4 * in_channels, in_channels)
        )

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Maps ``(B, D, h, w)`` to vectors ``(B, D)``."""
        tokens = inputs[self.in_index].flatten(2).transpose(1, 2)
        pooled, _ = self.attention(self.probe_token.expand(len(tokens), -1, -1), tokens, tokens, need_weights=False)
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]
