"""A frozen parallel block as it runs fastest: from weights that are derived once from the stored ones.

What the stored layout costs on one device (a norm's weight for every token, strided queries and keys, a concatenation,
biases and the residual as passes of their own) is paid for once, in the weights:

- the norm's weight lies in the input products, and the norms of queries and keys run on one contiguous tensor, whose
  weights are one scale of the queries, since only the products of queries and keys count;
- attention and MLP have an output product each, both added to the residual in place;
- the biases lie inside a product or in the one copy of the residual;
- norms and GELU write over the products' outputs, as nothing is kept for a backward pass.

The derived weights take as much memory as the block. They are in no state dict.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .block import ParallelBlock
from .norm import NORM_EPS, RMSNorm


def forward(
    x: Tensor,
    query_key: Tensor,
    query_scale: Tensor,
    value: Tensor,
    up: Tensor,
    up_bias: Tensor,
    attention_out: Tensor,
    mlp_out: Tensor,
    out_bias: Tensor,
) -> Tensor:
    """Tokens ``(B, N, D)`` to the same. The weights are those of `derived`."""
    batch, tokens, width = x.shape
    head_dims = len(query_scale)
    flat = x.reshape(-1, width)
    y = flat * _inverse_length(flat)
    queries_keys, values = (
        F.linear(y, weight).view(batch, tokens, -1, head_dims).transpose(1, 2) for weight in (query_key, value)
    )
    if x.device.type == 'cpu':  # whose attention takes a fifth less where the tokens of a head lie together
        queries_keys, values = queries_keys.contiguous(), values.contiguous()
    queries, keys = queries_keys.mul_(_inverse_length(queries_keys)).chunk(2, dim=1)
    attention = F.scaled_dot_product_attention(queries * query_scale, keys, values)
    attention = attention.transpose(1, 2).reshape(-1, width)
    if torch.compiler.is_compiling():  # which packs the weights of products that have nothing but a bias inside
        mlp = F.gelu(F.linear(y, up, up_bias))
        return (flat + F.linear(attention, attention_out, out_bias) + F.linear(mlp, mlp_out)).view_as(x)
    out = flat + out_bias
    out = out.addmm_(attention, attention_out.t())
    return out.addmm_(torch.ops.aten.gelu_(F.linear(y, up, up_bias)), mlp_out.t()).view_as(x)


def _inverse_length(x: Tensor) -> Tensor:
    """What an RMS norm multiplies with: one pass that reads, where PyTorch's norm makes several on the CPU."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return torch.rsqrt(length.square() / x.shape[-1] + NORM_EPS).to(x.dtype)


class FoldedBlock:
    """A block's derived weights, and its forward pass with them.

    Args:
        block: one that is `foldable`.
    """

    def __init__(self, block: ParallelBlock) -> None:
        self.block, self.made_of = block, _state(block)

    @functools.cached_property
    def weights(self) -> tuple[Tensor, ...]:
        """As `derived`. In float32 the rows of a product's weight lie in its memory as columns, which MKL prefers."""
        with torch.no_grad():
            found = derived(self.block)
            columns = self.block.in_proj.weight.dtype == torch.float32
            return tuple(w.t().contiguous().t() if columns and w.ndim == 2 else w for w in found)

    @staticmethod
    def nbytes(block: ParallelBlock) -> int:
        """Memory that is taken beside the block's own weights."""
        return sum(p.nbytes for p in block.parameters())

    def is_of(self, block: ParallelBlock) -> bool:
        """Whether the block still has the numbers that the weights were derived from."""
        return self.made_of == _state(block)

    def __call__(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to ``(B, N, D)``."""
        return forward(x, *self.weights)


def derived(block: ParallelBlock) -> tuple[Tensor, ...]:
    """The weights that `forward` takes, from the stored ones. Shapes: D width, H heads, M width of the MLP."""
    dtype, width = block.in_proj.weight.dtype, len(block.out_bias)
    head, up = block.head_dims, block.up_dims
    rows = (block.in_proj.weight.float() * block.norm.weight.float()).to(dtype).unflatten(0, (-1, 3 * head + up))
    query, key, value, up_rows = (t.reshape(-1, width) for t in rows.split([head, head, head, up], dim=1))
    columns = block.out_proj.weight.unflatten(1, (-1, head + up))
    return (
        torch.cat([query, key]),  # (2D, D)
        block.q_norm.weight * block.k_norm.weight,  # (D/H,)
        value.clone(),  # (D, D)
        up_rows.clone(),  # (M, D)
        block.up_bias.flatten(),  # (M,)
        columns[..., :head].reshape(width, -1),  # (D, D)
        columns[..., head:].reshape(width, -1),  # (D, M)
        block.out_bias.detach(),  # (D,)
    )


def foldable(block: nn.Module) -> bool:
    """Whether a block is a frozen `ParallelBlock` on one device that nothing was put into or hooked to."""
    if type(block) is not ParallelBlock or block.training:
        return False
    if type(block.in_proj) is not nn.Linear or type(block.out_proj) is not nn.Linear:
        return False
    if type(block.q_norm) is not RMSNorm:
        return False
    if any(module._forward_hooks or module._forward_pre_hooks for module in block.modules()):
        return False
    if any(p.requires_grad or p.is_meta or p.is_inference() for p in block.parameters()):
        return False
    return type(block.in_proj.weight.data) is Tensor  # and not a part of one that lies on several devices


def _state(block: nn.Module) -> list[tuple]:
    """What changes when a parameter gets other numbers: its memory, and PyTorch's count of writes to it."""
    return [(p.data_ptr(), p.dtype, p.device, p._version) for p in block.parameters()]
