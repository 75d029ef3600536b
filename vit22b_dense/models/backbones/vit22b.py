"""`ViT22B`: a plain Vision Transformer of parallel blocks that returns feature maps."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from mmseg.registry import MODELS
from torch import Tensor

from .block import ParallelBlock
from .body import PlainBody, resolve_arch
from .folded import FoldedBlock, foldable
from .norm import RMSNorm
from .packed import PackedBlock

# Derived weights take memory beside the blocks: above this the stored ones are used.
FOLDED_BYTES = 2**32

ARCHS = {
    'tiny': dict(embed_dims=192, num_layers=12, num_heads=3, mlp_dims=768),
    'small': dict(embed_dims=384, num_layers=12, num_heads=6, mlp_dims=1536),
    'base': dict(embed_dims=768, num_layers=12, num_heads=12, mlp_dims=3072),
    'large': dict(embed_dims=1024, num_layers=24, num_heads=16, mlp_dims=4096),
    '22b': dict(embed_dims=6144, num_layers=48, num_heads=48, mlp_dims=24576),
}


@MODELS.register_module()
class ViT22B(PlainBody):
    """The ViT-22B backbone, from a tiny size up to the 22 billion parameters.

    Called with images ``(B, 3, H, W)`` it returns a tuple of maps ``(B, D, ceil(H/P), ceil(W/P))``, one for each of
    ``out_indices``; see `PlainBody.forward`.

    Args:
        arch: a preset, one of ``'tiny' 'small' 'base' 'large' '22b'``, or a dict with ``embed_dims``, ``num_layers``,
            ``num_heads``, ``mlp_dims`` and perhaps ``qk_norm`` (default True).
        img_size: pixels (one number, or height and width) that the learned position grid stands for.
        patch_size: P, side of a patch in pixels.
        out_indices: the blocks whose outputs are returned, in this order; negative ones count from the last.
        frozen: no parameter is trained, no activations are stored, and it stays in evaluation mode; see
            `PlainBackbone`.
        with_cp: recompute each block in the backward pass instead of storing its activations.
        drop_path_rate: rate of the last block; grows linearly with the depth from 0 at the first.
        init_cfg: None for random weights, or ``dict(type='Pretrained', checkpoint=PATH)`` with optional
            ``prefix`` (default: ``backbone.`` if the file has it) and ``allow_partial`` (default False).
        dtype: of the weights: ``'float32'``, or if frozen also ``'bfloat16'`` or ``'float16'``.
        compile_blocks: run the blocks compiled by ``torch.compile``, in training and testing. The first passes take up
            to a minute, and those of frozen blocks a second or two a block.
        streamed: only the weights of two blocks are in memory; a thread reads the next ones from safetensors files
            while the pass computes. For frozen backbones with ``init_cfg``, or weights that are loaded later.

    Attributes:
        embed_dims: D.
        num_layers: number of blocks.
        patch_size: P.

    Frozen blocks run from weights that are derived once (`FoldedBlock`, compiled `PackedBlock`), unless these would
    take more than `FOLDED_BYTES`.

    Raises:
        ValueError: an unknown ``arch``, an ``out_indices`` outside the depth, a weight file that does not fit.
        UserError: ``compile_blocks`` without a C++ compiler; ``streamed`` blocks that learn or are compiled.

    Source: ViT-22B, arXiv 2302.05442, section 2 and table 1.
    """

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 14,
        out_indices: Sequence[int] = (-1,),
        frozen: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        init_cfg: dict | None = None,
        dtype: str = 'float32',
        compile_blocks: bool = False,
        streamed: bool = False,
    ) -> None:
        sizes = resolve_arch(arch, ARCHS, optional=('qk_norm',))
        width, heads, mlp_dims = (sizes[name] for name in ('embed_dims', 'num_heads', 'mlp_dims'))
        super().__init__(
            width,
            sizes['num_layers'],
            partial(ParallelBlock, width, heads, mlp_dims, qk_norm=sizes.get('qk_norm', True)),
            make_norm=partial(RMSNorm, width),
            class_token=False,
            img_size=img_size,
            patch_size=patch_size,
            out_indices=out_indices,
            frozen=frozen,
            with_cp=with_cp,
            drop_path_rate=drop_path_rate,
            init_cfg=init_cfg,
            dtype=dtype,
            compile_blocks=compile_blocks,
            streamed=streamed,
        )
        self.__dict__['_folded'] = {}  # by number of the block; not modules, so in no state dict

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> 'ViT22B':
        """Move or convert; PyTorch calls this. What was derived does not stay behind."""
        self.__dict__['_folded'] = {}
        return super()._apply(fn, recurse)

    def runnable(self, i: int) -> Callable[..., Tensor]:
        """Block ``i``, or on a CPU, where it is frozen, its derived one; a GPU does not gain from that."""
        block = self.blocks[i]
        folds = not torch.is_grad_enabled() and foldable(block) and block.out_bias.device.type == 'cpu'
        if not folds or torch.is_autocast_enabled('cpu'):
            self._folded.pop(i, None)
            return block
        found = self._folded.get(i)
        if found is None or not found.is_of(block):
            self._folded.pop(i, None)  # before memory is taken again
            faster = PackedBlock if self.compile_blocks else FoldedBlock
            if self.num_layers * faster.nbytes(block) > FOLDED_BYTES:
                return block
            found = self._folded[i] = faster(block)
        return found
