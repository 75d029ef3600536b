"""`TIMMViT`: timm's plain ViTs through mmseg's `TIMMBackbone`, with the contract of `ViT22B`."""

from collections.abc import Sequence

import torch
from mmseg.models.backbones import TIMMBackbone
from mmseg.models.backbones import timm_backbone as mmseg_timm
from mmseg.registry import MODELS
from torch import Tensor

from ...checkpoint import check_finite
from ...errors import UserError
from .contract import DTYPES, PlainBackbone, cover_image, draw_seed, file_source, reflect_to_multiple


@MODELS.register_module()
class TIMMViT(PlainBackbone, TIMMBackbone):
    """A plain ViT of timm, such as DeiT-III; requires timm and torchvision.

    timm runs its parts in one call, ``forward_intermediates``, so `forward` is not made of `embed` and `maps`.

    Shapes: B batch, H and W pixels, P ``patch_size``, D ``embed_dims``.

    Args:
        model_name: timm's name.
        out_indices: the blocks whose outputs are returned, in this order; negative ones count from the last.
        frozen, with_cp, dtype, compile_blocks: as for `ViT22B`.
        drop_path_rate: of the last block.
        pretrained: whether ``init_weights`` loads timm's weights for this name.
        checkpoint_path: a file that ``init_weights`` loads instead.

    Attributes:
        embed_dims: D.
        num_layers: number of blocks.
        patch_size: P.

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
        dtype: str = 'float32',
        compile_blocks: bool = False,
    ) -> None:
        if mmseg_timm.timm is None:
            raise UserError(f'{model_name} needs timm, and timm needs torchvision: pip install timm torchvision')
        seed = None if pretrained or checkpoint_path else draw_seed()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed or 0)
            super().__init__(
                model_name,
                features_only=False,
                pretrained=False,
                num_classes=0,
                dynamic_img_size=True,
                drop_path_rate=drop_path_rate,
            )
        if checkpoint_path:
            self.weights_source = file_source(checkpoint_path)
        else:
            hub = dict(kind='hub', name=f'timm/{model_name}', revision=None)
            self.weights_source = hub if pretrained else dict(kind='random', seed=seed)
        self.model_name = model_name
        if not hasattr(self.timm_model, 'blocks') or not hasattr(self.timm_model, 'forward_intermediates'):
            raise UserError(f'{model_name} is not a plain ViT of timm')
        self.embed_dims = self.timm_model.embed_dim
        (self.patch_size,) = set(self.timm_model.patch_embed.patch_size)
        self.timm_model.set_grad_checkpointing(with_cp)
        self.set_up(self.timm_model.blocks, out_indices, frozen, with_cp, dtype, compile_blocks)
        self.to(DTYPES[dtype])

    def init_weights(self) -> None:
        """Load the weights that were asked for; random ones are there already."""
        if self.weights_source['kind'] == 'random':
            self.warn_if_frozen_and_random()
        elif self.weights_source['kind'] == 'file':
            self.load_pretrained(self.weights_source['path'])
        else:
            self._take(pretrained=True)
        self._is_init = True

    def load_pretrained(self, path: str) -> None:
        """Load weights from a file, as timm reads it."""
        self._take(checkpoint_path=str(path))
        self.weights_source = file_source(path)

    def draw_weights(self, seed: int) -> None:
        """Draw random weights: for a seed the same numbers on every machine and device."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self._take(pretrained=False)
        self.weights_source = dict(kind='random', seed=seed)

    def _take(self, **source: bool | str) -> None:
        """Copy all that does not learn, or all, from a model that timm makes from a source of weights."""
        made = mmseg_timm.timm.create_model(self.model_name, num_classes=0, dynamic_img_size=True, **source)
        check_finite(made.state_dict(), source.get('checkpoint_path') or self.model_name)
        own, kept = self.timm_model.state_dict(), self.referenced_names()
        for name, tensor in made.state_dict().items():
            if not self.frozen or f'timm_model.{name}' in kept:
                own[name].copy_(tensor)

    def layer_id(self, name: str) -> int:
        """The depth of a parameter, as `PlainBody.layer_id` has it."""
        name = name.removeprefix('timm_model.')
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1
        return self.num_layers + 1 if name.startswith(('norm.', 'fc_norm.')) else 0

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of images ``(B, 3, H, W)``: ``(B, D, ceil(H/P), ceil(W/P))`` for each of ``out_indices``.

        Sizes that P does not divide are continued by reflection. Each map has the final norm.
        """
        depths = sorted(set(self.out_indices))
        learns = not self.frozen or any(param.requires_grad for param in self.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            continued = reflect_to_multiple(x.detach() if self.frozen else x, self.patch_size)
            maps = self.timm_model.forward_intermediates(
                continued.to(next(self.parameters()).dtype), indices=depths, norm=True, intermediates_only=True
            )
        by_depth = dict(zip(depths, maps, strict=True))
        return tuple(cover_image(by_depth[i], x.shape[2:], self.patch_size).to(x.dtype) for i in self.out_indices)
