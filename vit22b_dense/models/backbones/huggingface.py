"""`HFBackbone`: the plain-ViT backbones of transformers, with the contract of `ViT22B`."""

import re
from collections.abc import Sequence
from types import ModuleType

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from safetensors import SafetensorError
from torch import Tensor

from ...checkpoint import CheckpointError
from ...errors import UserError
from .body import pad_to_multiple, resolve_indices, warn_if_frozen_and_random


def import_transformers() -> ModuleType:
    """The optional package.

    Raises:
        UserError: it is not installed; says how to install it.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f'HFBackbone needs transformers ({error}), the extra "hf": pip install "transformers>=5,<6"'
        ) from error
    return transformers


@MODELS.register_module()
class HFBackbone(BaseModule):
    """A plain ViT from transformers' `AutoBackbone`: DINOv2 with and without registers, DINOv3 ViT, BEiT, ….

    Shapes: B batch, H and W pixels, P ``patch_size``, D ``embed_dims``.

    Args:
        model: a folder with ``config.json`` and safetensors, or a hub id. Never remote code.
        out_indices: the blocks whose outputs are returned, in this order; negative ones count from the last.
        frozen: no gradients and evaluation mode even after ``train()``.
        with_cp: recompute each block in the backward pass instead of storing its activations.
        drop_path_rate: of the last block, where the architecture has it.
        pretrained: whether ``init_weights`` reads the weights; False leaves random ones.

    Attributes:
        embed_dims: D. num_layers: number of blocks. patch_size: P.

    Raises:
        UserError: transformers is absent, there is no such model, or it is not a plain ViT.
        CheckpointError: from ``init_weights``: no safetensors, or they do not fit.
    """

    def __init__(
        self,
        model: str,
        out_indices: Sequence[int] = (-1,),
        frozen: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        transformers = import_transformers()
        self.source = model
        self.frozen = frozen
        self.pretrained = pretrained
        try:
            config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UserError(f'{model}: neither a folder with a config.json nor a model to be had ({error})') from error
        sizes = [getattr(config, name, None) for name in ('hidden_size', 'num_hidden_layers', 'patch_size')]
        if not all(isinstance(size, int) for size in sizes):
            raise UserError(f'{model}: {config.model_type} is not a plain ViT (one width, one patch size)')
        self.embed_dims, self.num_layers, self.patch_size = sizes
        self.out_indices = resolve_indices(out_indices, self.num_layers)
        if hasattr(config, 'drop_path_rate'):
            config.drop_path_rate = drop_path_rate
        elif drop_path_rate:
            raise UserError(f'{model}: {config.model_type} has no drop path; set drop_path_rate=0')
        # transformers counts the embedding as stage 0 and returns maps in the order of depth
        self.depths = sorted(set(self.out_indices))
        config.set_output_features_output_indices(out_features=None, out_indices=[i + 1 for i in self.depths])
        if hasattr(config, 'reshape_hidden_states'):
            config.reshape_hidden_states = True
        self.model = transformers.AutoBackbone.from_config(config, dtype=torch.float32)
        if with_cp:
            self.model.activation_checkpointing_enable(dict(use_reentrant=False))
        for name, param in self.named_parameters():
            # the mask token of pretraining takes no part in the features
            param.requires_grad_(not frozen and not name.endswith('mask_token'))
        if frozen:
            self.eval()

    def init_weights(self) -> None:
        """Read the safetensors of ``model`` as fp32 into this backbone; all of them or none."""
        if self.pretrained:
            try:
                # of the class itself: AutoBackbone.from_pretrained asks the hub also about a local folder
                loaded, info = type(self.model).from_pretrained(
                    self.source,
                    config=self.model.config,
                    use_safetensors=True,
                    trust_remote_code=False,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
            except (OSError, SafetensorError, RuntimeError) as error:
                raise CheckpointError(f'{self.source}: no safetensors that fit its config.json ({error})') from error
            missing = sorted(info['missing_keys'])
            if missing:
                raise CheckpointError(
                    f'{self.source}: its weights lack {", ".join(missing[:8])} ({len(missing)} in all)'
                )
            self.model.load_state_dict(loaded.state_dict())
        else:
            warn_if_frozen_and_random(self.frozen)
        self._is_init = True

    def train(self, mode: bool = True) -> 'HFBackbone':
        """Set the mode; a frozen backbone stays in evaluation mode. Returns itself."""
        return super().train(mode and not self.frozen)

    def layer_id(self, name: str) -> int:
        """The depth of a parameter, as `PlainBody.layer_id` has it."""
        block = re.search(r'\blayers?\.(\d+)\.', name)
        if block:
            return int(block.group(1)) + 1
        return 0 if 'embeddings' in name else self.num_layers + 1

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of images ``(B, 3, H, W)``: ``(B, D, ceil(H/P), ceil(W/P))`` for each of ``out_indices``.

        Sizes that P does not divide are padded with zeros right and bottom. Each map has the model's final norm.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            padded = pad_to_multiple(x, self.patch_size)
            maps = self.model(padded.to(self.model.dtype)).feature_maps
            by_depth = dict(zip(self.depths, maps, strict=True))
            return tuple(by_depth[i].to(x.dtype) for i in self.out_indices)
