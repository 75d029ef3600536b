"""The parallel transformer block of ViT-22B: attention and MLP side by side, in two matrix products."""

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from .norm import RMSNorm


class ParallelBlock(nn.Module):
    """``y = norm(x); x + attention(y) + mlp(y)`` with one input and one output product.

    Shapes: B batch, N tokens, D ``embed_dims``, H ``num_heads``, M ``mlp_dims``.

    Weights lie in a per-head interleaved layout, so that any tensor-parallel size that divides the heads is a
    plain row (input) or column (output) shard with one all-reduce per block:

    - ``in_proj.weight``  ``(3D + M, D)``: for each head the rows ``[q | k | v | up]`` of sizes
      ``[D/H, D/H, D/H, M/H]``. No bias for q, k and v;
    - ``up_bias``  ``(H, M/H)``: the bias of the MLP's first layer;
    - ``out_proj.weight``  ``(D, D + M)``: for each head the columns ``[attention | mlp]`` of sizes ``[D/H, M/H]``;
    - ``out_bias``  ``(D,)``: added after the product, not inside it: a biased product becomes ``addmm``,
      which keeps asynchronous tensor parallelism from fusing the communication into it;
    - ``q_norm.weight``, ``k_norm.weight``  ``(D/H,)``: RMS norm of queries and keys over the head dimension,
      shared by the heads.

    Args:
        embed_dims: D.
        num_heads: H; must divide D and M.
        mlp_dims: M.
        drop_path: probability of dropping the whole residual branch of a sample while training.
        qk_norm: whether queries and keys are normalised; without, large models diverge.

    Raises:
        ValueError: when the heads do not divide D and M.

    Source: ViT-22B, arXiv 2302.05442, section 2 (parallel layers, query/key normalization, omitted biases).
    """

    def __init__(
        self, embed_dims: int, num_heads: int, mlp_dims: int, drop_path: float = 0.0, qk_norm: bool = True
    ) -> None:
        super().__init__()
        if embed_dims % num_heads or mlp_dims % num_heads:
            raise ValueError(f'num_heads={num_heads} must divide embed_dims={embed_dims} and mlp_dims={mlp_dims}')
        self.head_dims = embed_dims // num_heads
        self.up_dims = mlp_dims // num_heads
        self.norm = RMSNorm(embed_dims)
        self.in_proj = nn.Linear(embed_dims, 3 * embed_dims + mlp_dims, bias=False)
        self.up_bias = nn.Parameter(torch.empty(num_heads, self.up_dims))
        self.q_norm = RMSNorm(self.head_dims) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dims) if qk_norm else nn.Identity()
        self.out_proj = nn.Linear(embed_dims + mlp_dims, embed_dims, bias=False)
        self.out_bias = nn.Parameter(torch.empty(embed_dims))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal (std 0.02) weights, zero biases, unit norms."""
        nn.init.trunc_normal_(self.in_proj.weight, std=0.02)
        nn.init.trunc_normal_(self.out_proj.weight, std=0.02)
        nn.init.zeros_(self.up_bias)
        nn.init.zeros_(self.out_bias)
        for norm in (self.norm, self.q_norm, self.k_norm):
            if isinstance(norm, RMSNorm):
                nn.init.ones_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to ``(B, N, D)``."""
        heads = self.in_proj(self.norm(x)).unflatten(-1, (-1, 3 * self.head_dims + self.up_dims))
        q, k, v, up = heads.split([self.head_dims, self.head_dims, self.head_dims, self.up_dims], dim=-1)
        # (B, N, H, D/H) -> (B, H, N, D/H) for the attention, and back
        q, k, v = (t.transpose(1, 2) for t in (self.q_norm(q), self.k_norm(k), v))
        attention = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        up_bias, out_bias = self.biases()
        mlp = F.gelu(up + up_bias.to(up))
        branch = self.out_proj(torch.cat([attention, mlp], dim=-1).flatten(2)) + out_bias
        return x + self.drop_path(branch)

    def biases(self) -> tuple[Tensor, Tensor]:
        """``up_bias`` and ``out_bias``, as the forward pass adds them."""
        return self.up_bias, self.out_bias
