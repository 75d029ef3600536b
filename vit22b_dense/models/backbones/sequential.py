"""The usual transformer block: attention, then MLP."""

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from .norm import NORMS, RMSNorm


class Attention(nn.Module):
    """Multi-head self-attention, optionally with queries and keys normalised over the full width.

    Shapes: B batch, N tokens, D ``embed_dims``.

    Args:
        embed_dims: D.
        num_heads: must divide D.
        qkv_bias: whether the input projection has a bias.
        qk_norm: RMS norm of queries and keys over D, before they are split into heads (InternViT's).
    """

    def __init__(self, embed_dims: int, num_heads: int, qkv_bias: bool, qk_norm: bool) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'num_heads={num_heads} must divide embed_dims={embed_dims}')
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.q_norm = RMSNorm(embed_dims) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(embed_dims) if qk_norm else nn.Identity()
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to ``(B, N, D)``."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (self.q_norm(q), self.k_norm(k), v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class SequentialBlock(nn.Module):
    """``x = x + ls1 * attention(norm1(x)); x + ls2 * mlp(norm2(x))``, with GELU in the MLP.

    Args:
        embed_dims: D, the width.
        num_heads: of the attention.
        mlp_dims: width of the MLP's hidden layer.
        norm: ``'layer'`` (with bias) or ``'rms'``.
        qkv_bias: whether the attention's input projection has a bias.
        qk_norm: normalise queries and keys over the full width.
        layer_scale: start value of the learned scales ``ls1`` and ``ls2`` ``(D,)``; None leaves them out.
        drop_path: probability of dropping a branch of a sample while training.

    Source: ViT, arXiv 2010.11929, section 3.1; layer scale of CaiT, arXiv 2103.17239; InternVL, arXiv 2312.14238.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_dims: int,
        norm: str = 'layer',
        qkv_bias: bool = True,
        qk_norm: bool = False,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.layer_scale = layer_scale
        self.norm1 = NORMS[norm](embed_dims)
        self.attn = Attention(embed_dims, num_heads, qkv_bias, qk_norm)
        self.norm2 = NORMS[norm](embed_dims)
        self.mlp = nn.Sequential()
        self.mlp.add_module('fc1', nn.Linear(embed_dims, mlp_dims))
        self.mlp.add_module('act', nn.GELU())
        self.mlp.add_module('fc2', nn.Linear(mlp_dims, embed_dims))
        for name in ('ls1', 'ls2'):
            scale = None if layer_scale is None else nn.Parameter(torch.empty(embed_dims))
            self.register_parameter(name, scale)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal (std 0.02) weights, zero biases, unit norms, scales at ``layer_scale``."""
        for name, param in self.named_parameters():
            if name.endswith('bias'):
                nn.init.zeros_(param)
            elif 'norm' in name:
                nn.init.ones_(param)
            elif name in ('ls1', 'ls2'):
                nn.init.constant_(param, self.layer_scale)
            else:
                nn.init.trunc_normal_(param, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to ``(B, N, D)``."""
        for norm, branch, scale in ((self.norm1, self.attn, self.ls1), (self.norm2, self.mlp, self.ls2)):
            out = branch(norm(x))
            x = x + self.drop_path(out if scale is None else out * scale)
        return x
