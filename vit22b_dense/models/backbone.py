"""`ViT22B`: a plain Vision Transformer of parallel blocks that returns feature maps."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checkpoint import load_weights, read_pretrained
from .block import NORM_EPS, ParallelBlock, RMSNorm
from .pos_embed import resize_pos_embed, to_grid

ARCHS = {
    'tiny': dict(embed_dims=192, num_layers=12, num_heads=3, mlp_dims=768),
    'small': dict(embed_dims=384, num_layers=12, num_heads=6, mlp_dims=1536),
    'base': dict(embed_dims=768, num_layers=12, num_heads=12, mlp_dims=3072),
    'large': dict(embed_dims=1024, num_layers=24, num_heads=16, mlp_dims=4096),
    '22b': dict(embed_dims=6144, num_layers=48, num_heads=48, mlp_dims=24576),
}


@MODELS.register_module()
class ViT22B(BaseModule):
    """The ViT-22B backbone, from a tiny size up to the 22 billion parameters.

    Shapes: B batch, H and W pixels, P ``patch_size``, D ``embed_dims``.

    Args:
        arch: a preset, one of ``'tiny' 'small' 'base' 'large' '22b'``, or a dict with exactly ``embed_dims``,
            ``num_layers``, ``num_heads`` and ``mlp_dims``.
        img_size: pixels (one number, or height and width) that the learned position grid stands for.
        patch_size: P.
        out_indices: the blocks whose outputs are returned, in this order; negative ones count from the last.
        frozen: no gradients, no stored activations, and evaluation mode even after ``train()``.
        with_cp: recompute each block in the backward pass instead of storing its activations.
        drop_path_rate: of the last block; grows linearly with the depth from 0 at the first.
        init_cfg: None for random weights, or ``dict(type='Pretrained', checkpoint=PATH)`` with optional
            ``prefix`` (default: ``backbone.`` where the file has it) and ``allow_partial`` (default False).

    Attributes:
        embed_dims: D. num_layers: number of blocks. patch_size: P.

    Raises:
        ValueError: an unknown ``arch``, an ``out_indices`` outside the depth, a weight file that does not fit.

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
    ) -> None:
        super().__init__(init_cfg)
        sizes = _resolve_arch(arch)
        self.embed_dims = sizes['embed_dims']
        self.num_layers = sizes['num_layers']
        self.patch_size = patch_size
        self.out_indices = _resolve_indices(out_indices, self.num_layers)
        self.frozen = frozen
        self.with_cp = with_cp

        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.patch_embed = nn.Conv2d(3, self.embed_dims, patch_size, stride=patch_size)
        self.pos_embed = nn.Parameter(
            torch.empty(1, math.ceil(height / patch_size), math.ceil(width / patch_size), self.embed_dims)
        )
        self.blocks = nn.ModuleList(
            ParallelBlock(
                self.embed_dims,
                sizes['num_heads'],
                sizes['mlp_dims'],
                drop_path=drop_path_rate * i / max(self.num_layers - 1, 1),
            )
            for i in range(self.num_layers)
        )
        self.norm = RMSNorm(self.embed_dims, eps=NORM_EPS)
        self._reset_stem()
        if frozen:
            self.requires_grad_(False)
            self.eval()

    def _reset_stem(self) -> None:
        nn.init.trunc_normal_(self.patch_embed.weight, std=0.02)
        nn.init.zeros_(self.patch_embed.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.ones_(self.norm.weight)

    def init_weights(self) -> None:
        """Load the weights that ``init_cfg`` names (position embedding resized), or draw random ones.

        Raises:
            ValueError: an ``init_cfg`` of another kind, or weights that do not fit; nothing is loaded then.
        """
        if self.init_cfg is None:
            if self.frozen:
                print_log(
                    'the frozen backbone has random weights: give init_cfg=dict(type="Pretrained", checkpoint=...) '
                    'unless the random baseline is what you want',
                    logger='current',
                    level=30,
                )
            self._reset_stem()
            for block in self.blocks:
                block.reset_parameters()
        else:
            cfg = dict(self.init_cfg)
            unknown = set(cfg) - {'type', 'checkpoint', 'prefix', 'allow_partial'}
            if cfg.get('type') != 'Pretrained' or 'checkpoint' not in cfg or unknown:
                raise ValueError(
                    "init_cfg must be dict(type='Pretrained', checkpoint=PATH[, prefix=…][, allow_partial=True]), "
                    f'not {cfg}'
                )
            path = cfg['checkpoint']
            state = read_pretrained(path, cfg.get('prefix'))
            if 'pos_embed' in state:
                grid = to_grid(state['pos_embed'], path)
                state['pos_embed'] = resize_pos_embed(grid, tuple(self.pos_embed.shape[1:3]))
            load_weights(self, state, path, allow_partial=cfg.get('allow_partial', False))
        self._is_init = True

    def train(self, mode: bool = True) -> 'ViT22B':
        """Set the mode; a frozen backbone stays in evaluation mode. Returns itself."""
        return super().train(mode and not self.frozen)

    def layer_id(self, name: str) -> int:
        """The depth of a parameter for layer-wise learning-rate decay.

        0 is the patch and position embedding, ``i + 1`` block i, ``num_layers + 1`` the final norm.

        Args:
            name: the parameter's name within the backbone.
        """
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1
        return self.num_layers + 1 if name.startswith('norm.') else 0

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of a batch of images.

        Args:
            x: ``(B, 3, H, W)``, normalised. Sizes that P does not divide are padded with zeros right and bottom.
                The weights may have another dtype: a frozen bf16 backbone in a model of fp32 heads.

        Returns:
            One map for each of ``out_indices``: ``(B, D, ceil(H/P), ceil(W/P))``, each with the final norm, in
            the dtype of ``x`` (under autocast, as autocast has it).
        """
        dtype = x.dtype
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            pad_h, pad_w = -x.shape[2] % self.patch_size, -x.shape[3] % self.patch_size
            if pad_h or pad_w:
                x = F.pad(x, (0, pad_w, 0, pad_h))
            x = self.patch_embed(x.to(self.patch_embed.weight.dtype))
            size = tuple(x.shape[2:])
            x = x.flatten(2).transpose(1, 2) + resize_pos_embed(self.pos_embed, size).flatten(1, 2)
            maps = {}
            recompute = self.with_cp and torch.is_grad_enabled()
            for i, block in enumerate(self.blocks[: max(self.out_indices) + 1]):
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
                if i in self.out_indices:
                    maps[i] = self.norm(x).to(dtype).transpose(1, 2).unflatten(2, size)
            return tuple(maps[i] for i in self.out_indices)


def _resolve_arch(arch: str | dict) -> dict:
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(f'unknown arch {arch!r}: choose one of {", ".join(ARCHS)}, or give a dict of sizes')
        return ARCHS[arch]
    wanted = set(ARCHS['base'])
    if set(arch) != wanted:
        raise ValueError(f'arch must be a dict with exactly {sorted(wanted)}, not {sorted(arch)}')
    return dict(arch)


def _resolve_indices(indices: Sequence[int], num_layers: int) -> tuple[int, ...]:
    indices = tuple(indices)
    resolved = tuple(i + num_layers if i < 0 else i for i in indices)
    if not resolved or any(not 0 <= i < num_layers for i in resolved):
        raise ValueError(f'out_indices={indices} must name blocks between {-num_layers} and {num_layers - 1}')
    return resolved
