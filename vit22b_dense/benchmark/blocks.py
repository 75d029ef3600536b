"""Blocks of equal size: forward pass and training step."""

import importlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.backbones.block import ParallelBlock
from ..models.backbones.folded import FoldedBlock
from ..models.backbones.norm import RMSNorm
from ..models.backbones.packed import PackedBlock
from ..models.backbones.sequential import Attention, SequentialBlock
from ..models.backbones.vit22b import ARCHS
from .timing import Group


class HeadNormAttention(Attention):
    """`Attention` with queries and keys normalised head by head, as in the parallel block."""

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__(embed_dims, num_heads, qkv_bias=False, qk_norm=False)
        self.q_norm, self.k_norm = RMSNorm(embed_dims // num_heads), RMSNorm(embed_dims // num_heads)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to ``(B, N, D)``."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        q, k, v = (t.transpose(1, 2) for t in (self.q_norm(q), self.k_norm(k), v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Another library's block, whose output may be a tuple."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to ``(B, N, D)``."""
        out = self.block(x)
        return out[0] if isinstance(out, tuple) else out


def blocks_of(size: str) -> dict[str, nn.Module]:
    """Blocks of a preset's size by name; those of libraries that are not installed are left out."""
    sizes = {name: ARCHS[size][name] for name in ('embed_dims', 'num_heads', 'mlp_dims')}
    width, heads, mlp_dims = sizes.values()
    sequential = SequentialBlock(**sizes, norm='rms', qkv_bias=False)
    sequential.attn = HeadNormAttention(width, heads)
    found = {'sequential, RMS and QK norms': sequential, 'parallel': ParallelBlock(**sizes)}
    try:
        from transformers import Dinov2Config
        from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer
    except ImportError:
        pass
    else:
        config = Dinov2Config(hidden_size=width, num_attention_heads=heads, mlp_ratio=mlp_dims // width)
        config._attn_implementation = 'sdpa'
        found["transformers' Dinov2Layer"] = Block(Dinov2Layer(config))
    try:
        timm = importlib.import_module('timm.models.vision_transformer')
    except ImportError:
        pass
    else:
        found["timm's ParallelScalingBlock"] = timm.ParallelScalingBlock(width, heads, mlp_dims / width, qk_norm=True)
    return found


def flops_of(size: str, tokens: int) -> float:
    """Of a forward pass: products and attention, a multiplication and an addition as two."""
    width, mlp_dims = ARCHS[size]['embed_dims'], ARCHS[size]['mlp_dims']
    return 4 * tokens * width * (2 * width + mlp_dims) + 4 * tokens**2 * width


def block_groups(
    sizes: list[str], tokens: list[int], dtypes: list[torch.dtype], compiled: bool, device: torch.device
) -> Iterator[Group]:
    """Forward passes without gradients, then training steps (forward and backward), a group for each size.

    Args:
        sizes: names of `ARCHS`. tokens: in a sequence. dtypes: of weights and tokens.
        compiled: whether each block also runs compiled.
        device: that they run on.
    """
    for size, dtype in ((s, d) for s in sizes for d in dtypes):
        blocks = {name: block.to(device, dtype) for name, block in blocks_of(size).items()}
        for count in tokens:
            x = torch.randn(1, count, ARCHS[size]['embed_dims'], device=device, dtype=dtype)
            title, flops = f'{size}, {count} tokens, {str(dtype)[6:]}', flops_of(size, count)
            stored = {name: block.eval() for name, block in blocks.items()}
            if compiled:
                torch.compiler.reset()  # PyTorch compiles a few versions of a block, and only the first for one size
                stored |= {f'{name}, compiled': torch.compile(block) for name, block in blocks.items()}
            faster = {'parallel, frozen': FoldedBlock(blocks['parallel'])}
            if compiled:
                faster['parallel, frozen, compiled'] = PackedBlock(blocks['parallel'])
            runs = {name: _forward(block, x) for name, block in (stored | faster).items()}
            yield Group('block forward', title, runs, flops, dtype)
            runs = {name: _step(block, x) for name, block in stored.items()}
            yield Group('block training step', title, runs, 3 * flops, dtype)


def _forward(block: Callable[[Tensor], Tensor], x: Tensor) -> object:
    return torch.no_grad()(lambda: block(x))


def _step(block: nn.Module, x: Tensor) -> object:
    def step() -> None:
        tokens = x.detach().requires_grad_()
        block(tokens).square().mean().backward()

    return step
