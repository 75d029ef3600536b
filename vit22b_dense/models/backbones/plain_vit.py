"""`PlainViT`: the usual sequential blocks, for the paper's comparators and for InternViT-6B."""

from collections.abc import Sequence
from functools import partial

from mmseg.registry import MODELS
from torch import nn

from .body import SIZES, PlainBody, resolve_arch
from .norm import NORMS
from .sequential import SequentialBlock

ARCHS = {
    'vit_g': dict(embed_dims=1664, num_layers=48, num_heads=16, mlp_dims=8192),
    'vit_e': dict(embed_dims=1792, num_layers=56, num_heads=16, mlp_dims=15360),
    'internvit_6b': dict(
        embed_dims=3200,
        num_layers=48,
        num_heads=25,
        mlp_dims=12800,
        norm='rms',
        qkv_bias=False,
        qk_norm=True,
        layer_scale=0.1,
        class_token=True,
        final_norm=False,
    ),
}
OPTIONS = dict(norm='layer', qkv_bias=True, qk_norm=False, layer_scale=None, class_token=False, final_norm=True)


@MODELS.register_module()
class PlainViT(PlainBody):
    """A ViT of sequential blocks, with the contract of `ViT22B`.

    Args:
        arch: ``'vit_g'`` (ViT-G/14), ``'vit_e'`` (ViT-e/14), ``'internvit_6b'``, or a dict with ``embed_dims``,
            ``num_layers``, ``num_heads``, ``mlp_dims`` and any of ``norm`` (``'layer'`` or ``'rms'``), ``qkv_bias``,
            ``qk_norm`` (over the full width), ``layer_scale`` (start value or None), ``class_token``, ``final_norm``.
        img_size: as for `ViT22B`, like all arguments below.
        patch_size: P.
        out_indices: the blocks whose outputs are returned.
        frozen: no gradients, no stored activations, evaluation mode.
        with_cp: recompute each block in the backward pass.
        drop_path_rate: rate of the last block.
        init_cfg: None, or ``dict(type='Pretrained', checkpoint=PATH)``.
        dtype: of the weights.
        compile_blocks: run the blocks compiled.
        streamed: only two blocks are in memory.

    Attributes:
        embed_dims: D.
        num_layers: number of blocks.
        patch_size: P.

    Raises:
        ValueError: as `ViT22B`.

    Source: ViT-G, arXiv 2106.04560; ViT-e, arXiv 2209.06794; InternViT-6B, arXiv 2312.14238.
    """

    def __init__(
        self,
        arch: str | dict,
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
        arch = resolve_arch(arch, ARCHS, optional=tuple(OPTIONS))
        width, depth, heads, mlp_dims = (arch[name] for name in SIZES)
        options = OPTIONS | {name: arch[name] for name in OPTIONS if name in arch}
        if options['norm'] not in NORMS:
            raise ValueError(f'norm={options["norm"]!r} must be one of {sorted(NORMS)}')

        block_options = {name: options[name] for name in ('norm', 'qkv_bias', 'qk_norm', 'layer_scale')}
        super().__init__(
            width,
            depth,
            lambda drop_path: SequentialBlock(width, heads, mlp_dims, **block_options, drop_path=drop_path),
            make_norm=partial(NORMS[options['norm']], width) if options['final_norm'] else nn.Identity,
            class_token=options['class_token'],
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
