"""What our own plain Vision Transformers share: all but the block."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ...checkpoint import LazyWeights, load_weights, open_weights
from ...errors import UserError
from .contract import DTYPES, PlainBackbone, draw_seed, file_source, reflect_to_multiple
from .pos_embed import resize_pos_embed, to_grid
from .streamed import open_stream, refuse_random

SIZES = ('embed_dims', 'num_layers', 'num_heads', 'mlp_dims')


class PlainBody(PlainBackbone):
    """Patch and position embedding, a stack of blocks, maps of several depths.

    With pretrained weights nothing is drawn at random: ``init_weights`` fills the memory. Without, every part is
    drawn once, from a seed of its own, so that the same numbers can be drawn again, part by part.

    Args:
        embed_dims: D.
        num_layers: number of blocks.
        make_block: from a drop path rate to a block, a module with ``reset_parameters``.
        make_norm: the norm applied to every returned map; ``nn.Identity`` for none.
        class_token: whether a class token with a position of its own runs along; it is not returned.
        img_size: as for `ViT22B`, and so are the rest.

    Raises:
        UserError: ``streamed`` blocks that are to learn or to be compiled.
        ValueError: an ``out_indices`` outside the depth, or see `PlainBackbone.set_up`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_layers: int,
        make_block: Callable[[float], nn.Module],
        make_norm: Callable[[], nn.Module],
        class_token: bool,
        img_size: int | tuple[int, int],
        patch_size: int,
        out_indices: Sequence[int],
        frozen: bool,
        with_cp: bool,
        drop_path_rate: float,
        init_cfg: dict | None,
        dtype: str,
        compile_blocks: bool,
        streamed: bool,
    ) -> None:
        super().__init__(init_cfg)
        if streamed and (compile_blocks or not frozen):
            raise UserError(
                f'streamed=True with {"compile_blocks=True" if compile_blocks else "frozen=False"}: the weights of '
                'streamed blocks are read for each pass; they are neither trained nor compiled'
            )
        self.streamed = False  # until there is what can be streamed
        self.embed_dims, self.patch_size = embed_dims, patch_size
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        grid = math.ceil(height / patch_size), math.ceil(width / patch_size)
        last = max(num_layers - 1, 1)
        device = torch.empty(0).device
        with torch.device('meta'):
            self.patch_embed = nn.Conv2d(3, embed_dims, patch_size, stride=patch_size)
            self.pos_embed = nn.Parameter(torch.empty(1, *grid, embed_dims))
            for name in ('cls_token', 'cls_pos_embed'):
                self.register_parameter(name, nn.Parameter(torch.empty(1, 1, embed_dims)) if class_token else None)
            self.blocks = nn.ModuleList(make_block(drop_path_rate * i / last) for i in range(num_layers))
            self.norm = make_norm()
        self.set_up(self.blocks, out_indices, frozen, with_cp, dtype, compile_blocks)
        self.to(DTYPES[dtype])
        path, _, allow_partial = (None, None, True) if init_cfg is None else parse_pretrained(init_cfg)
        self.seed = draw_seed() if allow_partial else None
        self.streamed, self.stream = streamed, None
        self._device = torch.device('cpu') if device.type == 'meta' else device  # of what is streamed
        on_meta = device.type == 'meta' or streamed  # until a file is opened
        if not on_meta and allow_partial:
            self.draw_weights(self.seed, device)
        elif not on_meta:
            self.to_empty(device=device)
            self.mark_empty()
        if path is not None:
            self.weights_source = file_source(path)

    @property
    def seed(self) -> int:
        """Of random weights."""
        return self.weights_source['seed']

    @seed.setter
    def seed(self, value: int) -> None:
        self.weights_source = dict(kind='random', seed=value)

    def init_weights(self) -> None:
        """Load the weights that ``init_cfg`` names (position embedding resized); random ones are there already.

        A backbone on the meta device takes memory first: of pretrained weights as they are read, else on the CPU.

        Raises:
            ValueError: an ``init_cfg`` of another kind, or weights that do not fit; nothing is loaded then.
        """
        if self.init_cfg is not None:
            self.load_pretrained(*parse_pretrained(self.init_cfg))
        else:
            if self.pos_embed.is_meta or self.streamed:
                self.draw_weights(self.seed)
            self.warn_if_frozen_and_random()
        self._is_init = True

    def draw_weights(self, seed: int, device: torch.device | str | None = None) -> None:
        """Draw random weights: for a seed the same numbers on every machine and device.

        Args:
            seed: 0 or more.
            device: where they go; None for where they are, or for the CPU where that is the meta device.

        Raises:
            UserError: the blocks are streamed.
        """
        if self.streamed:
            refuse_random()
        self.seed = seed
        device = device or (torch.device('cpu') if self.pos_embed.is_meta else self.pos_embed.device)
        if self.pos_embed.is_meta:
            self.to_empty(device='cpu')
        self.to('cpu')
        parts = {'stem': self.reset_stem, **{f'blocks.{i}': b.reset_parameters for i, b in enumerate(self.blocks)}}
        for name, reset in parts.items():
            with seed_of_part(seed, name):
                reset()
        self.to(device)

    def reset_stem(self) -> None:
        """Draw all but the blocks."""
        for param in (self.patch_embed.weight, self.pos_embed, self.cls_token, self.cls_pos_embed):
            if param is not None:
                nn.init.trunc_normal_(param, std=0.02)
        nn.init.zeros_(self.patch_embed.bias)
        if hasattr(self.norm, 'reset_parameters'):
            self.norm.reset_parameters()

    def load_pretrained(self, path: str | Path, prefix: str | None = None, allow_partial: bool = False) -> None:
        """Load weights from a file, tensor by tensor; of a frozen backbone into all that does not learn.

        Where the blocks are streamed, their weights stay in the file.

        Args:
            path: ``.safetensors``, a folder of shards, or a ``.pth``.
            prefix: of the backbone's names there; None: ``backbone.`` where the file has it.
            allow_partial: load what fits.

        Raises:
            CheckpointError: they do not fit; nothing is loaded then.
        """
        names = self.referenced_names() or None
        if self.streamed:
            self.stream = open_stream(self, path, prefix, allow_partial)
            names = {name for name in self.state_dict() if not name.startswith('blocks.')}
            whole = self.stream.reader.weights
            state = LazyWeights(whole.path, {name: whole[name] for name in names}, whole.read)
        else:
            state = open_weights(path).under(prefix)
        if 'pos_embed' in state:
            grid = to_grid(state.read('pos_embed'), path)
            state['pos_embed'] = resize_pos_embed(grid, tuple(self.pos_embed.shape[1:3]))
        dtype = self.pos_embed.dtype
        loaded = load_weights(self, state, path, allow_partial, names)
        self.of_its_own = set() if self.streamed else set(self.state_dict()) - set(loaded)
        if self.pos_embed.dtype != dtype:  # taken from the file as they are, from the meta device
            self.to(dtype)
        if self.streamed:
            self.to(self._device)
        self.weights_source = file_source(path)
        self.filled = False

    def run_blocks(
        self, tokens: Tensor, size: tuple[int, int], start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Run blocks on tokens; see `PlainBackbone.run_blocks`."""
        if self.stream is None:
            yield from super().run_blocks(tokens, size, start, stop)
            return
        numbers = range(self.num_layers)[start:stop]
        for i, block in self.stream.blocks(numbers, self.pos_embed.device, self.pos_embed.dtype):
            tokens = block(tokens)
            yield i, tokens

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> 'PlainBody':
        """Move or convert; PyTorch calls this. What is streamed goes there when it is read."""
        if not self.streamed:
            return super()._apply(fn, recurse)
        self._device = fn(torch.empty(0, device=self._device)).device
        return super()._apply(lambda t: t if t.is_meta else fn(t), recurse)

    def layer_id(self, name: str) -> int:
        """The depth of a parameter for layer-wise learning-rate decay.

        0 is the patch and position embedding, ``i + 1`` block i, ``num_layers + 1`` the final norm.

        Args:
            name: the parameter's name within the backbone.
        """
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1
        return self.num_layers + 1 if name.startswith('norm.') else 0

    def embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images ``(B, 3, H, W)`` to tokens ``(B, N, D)``, a class token first, and the size of their grid."""
        x = self.patch_embed(reflect_to_multiple(x, self.patch_size).to(self.patch_embed.weight.dtype))
        size = tuple(x.shape[2:])
        x = x.flatten(2).transpose(1, 2) + resize_pos_embed(self.pos_embed, size).flatten(1, 2)
        if self.cls_token is not None:
            x = torch.cat([(self.cls_token + self.cls_pos_embed).expand(len(x), -1, -1), x], dim=1)
        return x, size

    def maps(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens ``(B, N, D)`` to a map ``(B, D, *size)`` with the final norm, without the class token."""
        return self.norm(tokens[:, tokens.shape[1] - math.prod(size) :]).transpose(1, 2).unflatten(2, size)


@contextmanager
def seed_of_part(seed: int, name: str) -> Iterator[None]:
    """Draw a part of a backbone, ``'stem'`` or ``'blocks.0'`` and so on: the same numbers, whatever else is drawn."""
    with torch.random.fork_rng(devices=[]):
        digest = hashlib.sha256(f'{seed}:{name}'.encode()).digest()
        torch.default_generator.manual_seed(int.from_bytes(digest[:7], 'big'))
        yield


def resolve_arch(arch: str | Mapping, presets: Mapping[str, dict], optional: Sequence[str] = ()) -> dict:
    """A preset by name, or a dict of sizes.

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
