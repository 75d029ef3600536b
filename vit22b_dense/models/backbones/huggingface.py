"""`HFBackbone`: the plain-ViT backbones of transformers, with the contract of `ViT22B`."""

import math
import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import torch
from mmseg.registry import MODELS
from safetensors import SafetensorError
from torch import Tensor, nn

from ...checkpoint import CheckpointError, check_finite, open_weights
from ...checkpoint.errors import shorten
from ...errors import UserError
from .contract import DTYPES, PlainBackbone, draw_seed, file_source, reflect_to_multiple


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
class HFBackbone(PlainBackbone):
    """A plain ViT from transformers' `AutoBackbone`: DINOv2 with and without registers, DINOv3 ViT.

    Its own forward pass keeps the states of all layers; here its parts are run one after the other.

    Shapes: B batch, H and W pixels, P ``patch_size``, D ``embed_dims``.

    Args:
        model: a folder with ``config.json`` and safetensors, or a hub id. Never remote code.
        out_indices: the blocks whose outputs are returned, in this order; negative ones count from the last.
        frozen, with_cp, dtype, compile_blocks: as for `ViT22B`.
        drop_path_rate: of the last block, where the architecture has it.
        pretrained: whether ``init_weights`` reads the weights; False leaves random ones.

    Attributes:
        embed_dims: D.
        num_layers: number of blocks.
        patch_size: P.

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
        dtype: str = 'float32',
        compile_blocks: bool = False,
    ) -> None:
        super().__init__()
        transformers = import_transformers()
        self.pretrained = pretrained
        try:
            config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UserError(f'{model}: neither a folder with a config.json nor a model to be had ({error})') from error
        sizes = [getattr(config, name, None) for name in ('hidden_size', 'num_hidden_layers', 'patch_size')]
        if not all(isinstance(size, int) for size in sizes):
            raise UserError(f'{model}: {config.model_type} is not a plain ViT (one width, one patch size)')
        self.embed_dims, num_layers, self.patch_size = sizes
        if hasattr(config, 'drop_path_rate'):
            config.drop_path_rate = drop_path_rate
        elif drop_path_rate:
            raise UserError(f'{model}: {config.model_type} has no drop path; set drop_path_rate=0')
        if not pretrained:
            self.weights_source = dict(kind='random', seed=draw_seed())
        elif Path(model).exists():
            self.weights_source = file_source(model)
        else:
            self.weights_source = dict(kind='hub', name=model, revision=getattr(config, '_commit_hash', None))
        self.source = model
        self.model = self._built(config, self.weights_source.get('seed'))
        lists = [m for m in self.model.modules() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
        norm = getattr(self.model, 'layernorm', None) or getattr(self.model, 'norm', None)
        if not (lists and norm is not None and hasattr(self.model, 'embeddings')):
            raise UserError(f'{model}: {config.model_type} lacks the embeddings, layers or norm of a plain ViT')
        # plain attributes: the modules are the model's
        self.__dict__.update(blocks=lists[0], norm=norm)
        self.set_up(self.blocks, out_indices, frozen, with_cp, dtype, compile_blocks)
        self.to(DTYPES[dtype])
        for name, param in self.named_parameters():
            if name.endswith('mask_token'):  # of pretraining; it takes no part in the features
                param.requires_grad_(False)
        if pretrained and not next(self.parameters()).is_meta:
            self.mark_empty()

    @staticmethod
    def _built(config: object, seed: int | None) -> nn.Module:
        """The model with random weights of a seed, or for None with none; the global generator stays as it is."""
        from transformers import AutoBackbone
        from transformers.initialization import no_init_weights

        with torch.random.fork_rng(devices=[]), no_init_weights() if seed is None else nullcontext():
            torch.default_generator.manual_seed(seed or 0)
            return AutoBackbone.from_config(config, dtype=torch.float32)

    def init_weights(self) -> None:
        """Read the safetensors of ``model`` into this backbone, all of them or none; random ones are there already."""
        if self.pretrained:
            source = self.weights_source
            self.load_pretrained(self.source)
            self.weights_source = source
        else:
            self.warn_if_frozen_and_random()
        self._is_init = True

    def draw_weights(self, seed: int) -> None:
        """Draw random weights: for a seed the same numbers on every machine and device."""
        self._take(self._built(self.model.config, seed))
        self.weights_source = dict(kind='random', seed=seed)

    def load_pretrained(self, path: str | Path) -> None:
        """Read the safetensors of a folder or of the hub; of a frozen backbone into all that does not learn.

        Raises:
            CheckpointError: there are none, or they do not fit; nothing is loaded then.
        """
        if Path(path).exists():
            # transformers would cast whole numbers, and follow an index out of its folder
            whole = {name: tensor for name, tensor in open_weights(path).items() if not tensor.is_floating_point()}
            if whole:
                raise CheckpointError(f'{path}: weights that are no floating point: {shorten(whole)}')
        try:
            # of the class itself: AutoBackbone.from_pretrained asks the hub also about a local folder
            loaded, info = type(self.model).from_pretrained(
                path,
                config=self.model.config,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=next(self.parameters()).dtype,
                output_loading_info=True,
            )
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(f'{path}: no safetensors that fit its config.json ({error})') from error
        if missing := sorted(info['missing_keys']):
            raise CheckpointError(f'{path}: its weights lack {", ".join(missing[:8])} ({len(missing)} in all)')
        check_finite(dict(loaded.named_parameters()), path)
        self._take(loaded)
        self.weights_source = file_source(path)
        self.filled = False

    def _take(self, other: nn.Module) -> None:
        """Take over the numbers of a model: its very memory where that is possible, so that there is one copy."""
        own = dict([*self.model.named_parameters(), *self.model.named_buffers()])
        learning = {name for name, param in self.model.named_parameters() if param.requires_grad and self.frozen}
        for name, tensor in [*other.named_parameters(), *other.named_buffers()]:
            if name not in own or name in learning:
                continue
            here, tensor = own[name], tensor.detach().to(own[name].dtype)
            if here.is_meta or here.device == tensor.device:
                here.data = tensor
            else:
                here.data.copy_(tensor)

    def layer_id(self, name: str) -> int:
        """The depth of a parameter, as `PlainBody.layer_id` has it."""
        block = re.search(r'\blayers?\.(\d+)\.', name)
        if block:
            return int(block.group(1)) + 1
        return 0 if 'embeddings' in name else self.num_layers + 1

    def embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images ``(B, 3, H, W)`` to tokens ``(B, N, D)``, class and register tokens first, and their grid's size."""
        x = reflect_to_multiple(x, self.patch_size).to(self.model.dtype)
        return self.model.embeddings(x), (x.shape[2] // self.patch_size, x.shape[3] // self.patch_size)

    def shared_inputs(self, tokens: Tensor, size: tuple[int, int]) -> dict:
        """DINOv3's rotary position embedding, which follows from the size of the image."""
        if not hasattr(self.model, 'rope_embeddings'):
            return {}
        height, width = (side * self.patch_size for side in size)
        image = tokens.new_empty(1).expand(1, 1, height, width)  # its shape is all that is read
        return dict(position_embeddings=self.model.rope_embeddings(image))

    def maps(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens ``(B, N, D)`` to a map ``(B, D, *size)`` with the final norm, without class and register tokens."""
        return self.norm(tokens[:, tokens.shape[1] - math.prod(size) :]).transpose(1, 2).unflatten(2, size)
