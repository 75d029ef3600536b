"""What every plain Vision Transformer here shares: all but the block."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...checkpoint import load_weights, read_pretrained
from .pos_embed import resize_pos_embed, to_grid

SIZES = ('embed_dims', 'num_layers', 'num_heads', 'mlp_dims')


class PlainBody(BaseModule):
    """Patch and position embedding, a stack of blocks, maps of several depths; freezing and checkpointing.

    Shapes: B batch, H and W pixels, P ``patch_size``, D ``embed_dims``.

    Args:
        embed_dims: D.
        num_layers: number of blocks.
        make_block: from a drop path rate to a block, a module with ``reset_parameters``.
        final_norm: applied to every returned map; ``nn.Identity`` for none.
        class_token: whether a class token with a position of its own runs along; it is not returned.
        img_size: as for `ViT22B`, and so are the rest.

    Raises:
        ValueError: an ``out_indices`` outside the depth.
    """

    def __init__(
        self,
        embed_dims: int,
        num_layers: int,
        make_block: Callable[[float], nn.Module],
        final_norm: nn.Module,
        class_token: bool,
        img_size: int | tuple[int, int],
        patch_size: int,
        out_indices: Sequence[int],
        frozen: bool,
        with_cp: bool,
        drop_path_rate: float,
        init_cfg: dict | None,
    ) -> None:
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        self.num_layers = num_layers
        self.patch_size = patch_size
        self.out_indices = resolve_indices(out_indices, num_layers)
        self.frozen = frozen
        self.with_cp = with_cp

        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        grid = math.ceil(height / patch_size), math.ceil(width / patch_size)
        self.patch_embed = nn.Conv2d(3, embed_dims, patch_size, stride=patch_size)
        self.pos_embed = nn.Parameter(torch.empty(1, *grid, embed_dims))
        for name in ('cls_token', 'cls_pos_embed'):
            self.register_parameter(name, nn.Parameter(torch.empty(1, 1, embed_dims)) if class_token else None)
        last = max(num_layers - 1, 1)
        self.blocks = nn.ModuleList(make_block(drop_path_rate * i / last) for i in range(num_layers))
        self.norm = final_norm
        self._reset_stem()
        if frozen:
            self.requires_grad_(False)
            self.eval()

    def _reset_stem(self) -> None:
        for param in (self.patch_embed.weight, self.pos_embed, self.cls_token, self.cls_pos_embed):
            if param is not None:
                nn.init.trunc_normal_(param, std=0.02)
        nn.init.zeros_(self.patch_embed.bias)

    def init_weights(self) -> None:
        """Load the weights that ``init_cfg`` names (position embedding resized), or draw random ones.

        Raises:
            ValueError: an ``init_cfg`` of another kind, or weights that do not fit; nothing is loaded then.
        """
        if self.init_cfg is None:
            warn_if_frozen_and_random(self.frozen)
            self._reset_stem()
            for block in self.blocks:
                block.reset_parameters()
        else:
            path, prefix, allow_partial = parse_pretrained(self.init_cfg)
            state = read_pretrained(path, prefix)
            if 'pos_embed' in state:
                grid = to_grid(state['pos_embed'], path)
                state['pos_embed'] = resize_pos_embed(grid, tuple(self.pos_embed.shape[1:3]))
            load_weights(self, state, path, allow_partial=allow_partial)
        self._is_init = True

    def train(self, mode: bool = True) -> 'PlainBody':
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
            x = self.patch_embed(pad_to_multiple(x, self.patch_size).to(self.patch_embed.weight.dtype))
            size = tuple(x.shape[2:])
            x = x.flatten(2).transpose(1, 2) + resize_pos_embed(self.pos_embed, size).flatten(1, 2)
            first = 0
            if self.cls_token is not None:
                x = torch.cat([(self.cls_token + self.cls_pos_embed).expand(len(x), -1, -1), x], dim=1)
                first = 1
            maps = {}
            recompute = self.with_cp and torch.is_grad_enabled()
            for i, block in enumerate(self.blocks[: max(self.out_indices) + 1]):
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
                if i in self.out_indices:
                    maps[i] = self.norm(x[:, first:]).to(dtype).transpose(1, 2).unflatten(2, size)
            return tuple(maps[i] for i in self.out_indices)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad ``(B, C, H, W)`` with zeros right and bottom until ``multiple`` divides both sides."""
    height, width = -image.shape[2] % multiple, -image.shape[3] % multiple
    return F.pad(image, (0, width, 0, height)) if height or width else image


def resolve_arch(arch: str | Mapping, presets: Mapping[str, dict], optional: Sequence[str] = ()) -> dict:
    """A preset by name, or a dict of one's own sizes.

    Raises:
        ValueError: an unknown name (the known ones are listed), or a dict with other keys.
    """
    if isinstance(arch, str):
        if arch not in presets:
            raise ValueError(f'unknown arch {arch!r}: choose one of {", ".join(presets)}, or give a dict of sizes')
        return dict(presets[arch])
    if not set(SIZES) <= set(arch) <= {*SIZES, *optional}:
        also = f' and any of {sorted(optional)}' if optional else ''
        raise ValueError(f'arch must be a dict with exactly {sorted(SIZES)}{also}, not {sorted(arch)}')
    return dict(arch)


def resolve_indices(indices: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Negative indices of blocks counted from the last.

    Raises:
        ValueError: none, or one outside the depth.
    """
    indices = tuple(indices)
    resolved = tuple(i + num_layers if i < 0 else i for i in indices)
    if not resolved or any(not 0 <= i < num_layers for i in resolved):
        raise ValueError(f'out_indices={indices} must name blocks between {-num_layers} and {num_layers - 1}')
    return resolved


def parse_pretrained(init_cfg: Mapping) -> tuple[str, str | None, bool]:
    """Checkpoint, prefix and allow_partial of ``dict(type='Pretrained', …)``.

    Raises:
        ValueError: another type, no checkpoint, or unknown keys.
    """
    cfg = dict(init_cfg)
    unknown = set(cfg) - {'type', 'checkpoint', 'prefix', 'allow_partial'}
    if cfg.get('type') != 'Pretrained' or 'checkpoint' not in cfg or unknown:
        raise ValueError(
            f"init_cfg must be dict(type='Pretrained', checkpoint=PATH[, prefix=…][, allow_partial=True]), not {cfg}"
        )
    return cfg['checkpoint'], cfg.get('prefix'), cfg.get('allow_partial', False)


def warn_if_frozen_and_random(frozen: bool) -> None:
    """Say that a frozen backbone has random weights, unless it is what the user wants."""
    if frozen:
        print_log(
            'the frozen backbone has random weights: name pretrained ones in init_cfg unless the random baseline is '
            'what you want',
            logger='current',
            level=30,
        )
