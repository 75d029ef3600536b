"""A frozen parallel block, compiled together with its weights.

PyTorch's compiler takes the weights as constants (its option `freezing`): it derives from them what `folded.forward`
takes, and packs that once in the order in which the CPU's matrix products read it. A product packs its weight at each
call otherwise, which at 256 tokens is a tenth of its time.

In float32, MKL packs for one number of rows, so code is compiled for the size of the first pass alone, and tokens of
other sizes run from derived weights. In bfloat16 the code serves all sizes.
"""

import types
from collections.abc import Callable

import torch
from torch import Tensor

from .block import ParallelBlock
from .folded import FoldedBlock, derived, forward

ALONE = 256  # tokens: images with this many or more gain nothing from being batched


class PackedBlock(FoldedBlock):
    """A block compiled with its weights, which takes a second or two at its first pass.

    Args:
        block: one that is `foldable`.
    """

    def __init__(self, block: ParallelBlock) -> None:
        super().__init__(block)
        self.one_size = block.in_proj.weight.dtype == torch.float32
        self.size: torch.Size | None = None  # that the code is for, if for one
        from torch._inductor import config  # takes half a second

        self.compiled = config.patch(freezing=True)(torch.compile(_copy(_forward), dynamic=not self.one_size))

    @staticmethod
    def nbytes(block: ParallelBlock) -> int:
        """Memory that is taken beside the block's own weights: MKL keeps the weights as they were, too."""
        return FoldedBlock.nbytes(block) * (2 if block.in_proj.weight.dtype == torch.float32 else 1)

    def __call__(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` to ``(B, N, D)``."""
        if len(x) > 1 and x.shape[1] >= ALONE:  # so that batches of any number run the same code
            return torch.cat([self(image) for image in x.split(1)])
        x = x.contiguous()  # the code also depends on strides
        if self.one_size:
            self.size = self.size or x.shape
            if x.shape != self.size:
                return super().__call__(x)
        return self.compiled(self.block, x)


def _forward(block: ParallelBlock, x: Tensor) -> Tensor:
    return forward(x, *derived(block))


def _copy(function: Callable) -> Callable:
    """The function with a code object of its own: PyTorch compiles only a few versions of each code object."""
    return types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
