"""`TIMMViT`: timm's plain ViTs through mmseg's `TIMMBackbone`, with the contract of `ViT22B`."""

from collections.abc import Sequence

import torch
from mmseg.models.backbones import TIMMBackbone
from mmseg.models.backbones import timm_backbone as mmseg_timm
from mmseg.registry import MODELS
from torch import Tensor

from ...errors import UserError
from .body import pad_to_multiple, resolve_indices, warn_if_frozen_and_random


@MODELS.register_module()
class TIMMViT(TIMMBackbone):
    """A plain ViT of timm, such as DeiT-III; for those who have timm, which needs torchvision.

    Shapes: B batch, H and W pixels, P ``patch_size``, D ``embed_dims``.

    Args:
        model_name: timm's name.
        out_indices: the blocks whose outputs are returned, in this order; negative ones count from the last.
        frozen: no gradients and evaluation mode even after ``train()``.
        with_cp: recompute each block in the backward pass instead of storing its activations.
        drop_path_rate: of the last block.
        pretrained: whether ``init_weights`` loads timm's weights for this name.
        checkpoint_path: a file that ``init_weights`` loads instead.

    Attributes:
        embed_dims: D. num_layers: number of blocks. patch_size: P.

    Raises:
        UserError: timm is not installed, or the model is not a plain ViT.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int] = (-1,),
        frozen: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        pretrained: bool = True,
        checkpoint_path: str = '',
    ) -> None:
        if mmseg_timm.timm is None:
            raise UserError(f'{model_name} needs timm, and timm needs torchvision: pip install timm torchvision')
        super().__init__(
            model_name,
            features_only=False,
            pretrained=False,
            num_classes=0,
            dynamic_img_size=True,
            drop_path_rate=drop_path_rate,
        )
        self.source = dict(model_name=model_name, pretrained=pretrained, checkpoint_path=checkpoint_path)
        if not hasattr(self.timm_model, 'blocks') or not hasattr(self.timm_model, 'forward_intermediates'):
            raise UserError(f'{model_name} is not a plain ViT of timm')
        self.frozen = frozen
        self.embed_dims = self.timm_model.embed_dim
        self.num_layers = len(self.timm_model.blocks)
        (self.patch_size,) = set(self.timm_model.patch_embed.patch_size)
        self.out_indices = resolve_indices(out_indices, self.num_layers)
        self.timm_model.set_grad_checkpointing(with_cp)
        if frozen:
            self.requires_grad_(False)
            self.eval()

    def init_weights(self) -> None:
        """Load the weights that were asked for; random ones stay otherwise."""
        if self.source['pretrained'] or self.source['checkpoint_path']:
            loaded = mmseg_timm.timm.create_model(**self.source, num_classes=0, dynamic_img_size=True)
            self.timm_model.load_state_dict(loaded.state_dict())
        else:
            warn_if_frozen_and_random(self.frozen)
        self._is_init = True

    def train(self, mode: bool = True) -> 'TIMMViT':
        """Set the mode; a frozen backbone stays in evaluation mode. Returns itself."""
        return super().train(mode and not self.frozen)

    def layer_id(self, name: str) -> int:
        """The depth of a parameter, as `PlainBody.layer_id` has it."""
        name = name.removeprefix('timm_model.')
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1
        return self.num_layers + 1 if name.startswith(('norm.', 'fc_norm.')) else 0

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of images ``(B, 3, H, W)``: ``(B, D, ceil(H/P), ceil(W/P))`` for each of ``out_indices``.

        Sizes that P does not divide are padded with zeros right and bottom. Each map has the final norm.
        """
        depths = sorted(set(self.out_indices))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.timm_model.forward_intermediates(
                pad_to_multiple(x, self.patch_size), indices=depths, norm=True, intermediates_only=True
            )
        by_depth = dict(zip(depths, maps, strict=True))
        return tuple(by_depth[i] for i in self.out_indices)
