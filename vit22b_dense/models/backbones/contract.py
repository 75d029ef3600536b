"""What every backbone here promises: what `frozen` means, embed -> blocks -> maps, and where its weights come from."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...checkpoint import Reference
from ...errors import UserError
from .referenced import ENTRY, find_weights

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


class PlainBackbone(BaseModule):
    """The contract of the backbones: a plain ViT that returns feature maps.

    Shapes: B batch, H and W pixels, P ``patch_size``, N tokens, D ``embed_dims``.

    ``frozen`` means three things:

    - *which parameters learn*: none of those that are there when it is built. An adapter put into it afterwards keeps
      its own;
    - *which modules stay in evaluation mode*: all but those that own a learning parameter, with their children that
      have no parameters, such as an adapter's dropout;
    - *where the gradients end*: in front of the first module that learns. Where none does, nothing is stored for the
      backward pass.

    Attributes:
        embed_dims: D. num_layers: number of blocks. patch_size: P. out_indices: blocks whose maps are returned.
        frozen, with_cp, compile_blocks: as for `ViT22B`.
        weights_source: ``dict(kind='file', path=…)``, ``dict(kind='hub', name=…, revision=…)`` or
            ``dict(kind='random', seed=…)``.
    """

    embed_dims: int
    num_layers: int
    patch_size: int
    weights_source: dict

    def set_up(
        self,
        blocks: Sequence[nn.Module],
        out_indices: Sequence[int],
        frozen: bool,
        with_cp: bool,
        dtype: str,
        compile_blocks: bool,
    ) -> None:
        """Set what all backbones share, once the modules are there.

        Raises:
            ValueError: an ``out_indices`` outside the depth; weights of low precision that are to learn.
            UserError: ``compile_blocks`` without a C++ compiler.
        """
        num_layers = len(blocks)
        if compile_blocks:
            require_compiler()
            for block in blocks:
                block.compile()
        if dtype not in DTYPES or (dtype != 'float32' and not frozen):
            known = ', '.join(DTYPES)
            raise ValueError(f'dtype={dtype!r}: choose one of {known}; all but float32 only with frozen=True')
        self.num_layers, self.frozen, self.with_cp, self.compile_blocks = num_layers, frozen, with_cp, compile_blocks
        self.out_indices = resolve_indices(out_indices, num_layers)
        self.filled = False  # known to hold weights
        self.of_its_own: set[str] = set()  # names that a partial file of weights did not have
        if frozen:
            self.requires_grad_(False)
            self.eval()

    def train(self, mode: bool = True) -> 'PlainBackbone':
        """Set the mode; of a frozen backbone that of its learning modules alone. Returns itself."""
        if not self.frozen:
            return super().train(mode)
        super().train(False)
        for module in self.modules():
            if any(param.requires_grad for param in module.parameters(recurse=False)):
                module.training = mode
                for child in module.children():
                    if next(child.parameters(), None) is None:
                        child.train(mode)
        return self

    def referenced_names(self) -> set[str]:
        """Names of the state dict that do not learn and come from `weights_source`; none unless frozen."""
        learning = {name for name, param in self.named_parameters() if param.requires_grad}
        return set(self.state_dict()) - learning - self.of_its_own if self.frozen else set()

    @property
    def reference(self) -> Reference | None:
        """What a checkpoint has in place of the weights that do not learn; None where all of them do."""
        return Reference.of(self.weights_source) if self.referenced_names() else None

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, *rest: bool | list[str]
    ) -> None:
        """Find the weights that a checkpoint of what was trained refers to; PyTorch calls this when it loads one."""
        if ENTRY in local_metadata and any(prefix + name not in state_dict for name in self.state_dict()):
            find_weights(self, Reference(**local_metadata[ENTRY]), 'the checkpoint')
            for name, tensor in self.state_dict().items():
                state_dict.setdefault(prefix + name, tensor)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images ``(B, 3, H, W)`` to tokens ``(B, N, D)`` and the size of their grid, ``ceil(H/P), ceil(W/P)``."""
        raise NotImplementedError

    def run_blocks(
        self, tokens: Tensor, size: tuple[int, int], start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Run blocks ``start`` to ``stop`` (all) on tokens; after each, its number and its tokens ``(B, N, D)``."""
        shared = self.shared_inputs(tokens, size)
        for i, block in list(enumerate(self.blocks))[start:stop]:
            learns = tokens.requires_grad or any(param.requires_grad for param in block.parameters())
            if self.with_cp and torch.is_grad_enabled() and learns:
                tokens = checkpoint(block, tokens, use_reentrant=False, **shared)
            else:
                tokens = self.runnable(i)(tokens, **shared)
            yield i, tokens

    def runnable(self, i: int) -> Callable[..., Tensor]:
        """What stands for block ``i`` in a forward pass: the block, or the same function made faster."""
        return self.blocks[i]

    def shared_inputs(self, tokens: Tensor, size: tuple[int, int]) -> dict:
        """What each block takes beside the tokens."""
        return {}

    def maps(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens behind a block ``(B, N, D)`` to a map ``(B, D, h, w)``, with the final norm."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of a batch of images.

        Args:
            x: ``(B, 3, H, W)``, normalised. Sizes that P does not divide are continued by reflection. The weights may
                have another dtype: a frozen bf16 backbone in a model of fp32 heads.

        Returns:
            One map for each of ``out_indices``: ``(B, D, ceil(H/P), ceil(W/P))``, each with the final norm, in
            the dtype of ``x`` (under autocast, as autocast has it). A map covers the image exactly, also where P does
            not divide it; see `cover_image`.

        Raises:
            RuntimeError: its pretrained weights have not been loaded.
        """
        if not self.filled and not x.is_meta:  # shapes alone need no weights
            self._check_filled()
        learns = not self.frozen or any(param.requires_grad for param in self.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            tokens, size = self.embed(x.detach() if self.frozen else x)
            maps = {}
            for i, behind in self.run_blocks(tokens, size, stop=max(self.out_indices) + 1):
                if i in self.out_indices:
                    maps[i] = cover_image(self.maps(behind, size), x.shape[2:], self.patch_size).to(x.dtype)
            return tuple(maps[i] for i in self.out_indices)

    def mark_empty(self) -> None:
        """Remember in the weights themselves that they are yet to be loaded."""
        with torch.no_grad():
            next(self.parameters()).fill_(torch.nan)

    def _check_filled(self) -> None:
        first = next(self.parameters())
        if first.is_meta or first.detach().flatten()[0].isnan():
            raise RuntimeError(f'{type(self).__name__} has no weights yet: call init_weights() or load a checkpoint')
        self.filled = True

    def warn_if_frozen_and_random(self) -> None:
        """Say that a frozen backbone has random weights, since that is seldom what the user wants."""
        if self.frozen:
            print_log(
                'the frozen backbone has random weights: name pretrained ones unless the random baseline is what you '
                'want',
                logger='current',
                level=30,
            )


def require_compiler() -> None:
    """Check that what PyTorch's compiler needs is there.

    Raises:
        UserError: no C++ compiler.
    """
    compiler = os.environ.get('CXX') or ('clang++' if sys.platform == 'darwin' else 'g++')
    if shutil.which(compiler) is None:
        raise UserError(
            f'compile_blocks=True: PyTorch compiles with {compiler}, which is not installed; install it, name another '
            'C++ compiler in CXX, or set compile_blocks=False'
        )


def draw_seed() -> int:
    """A seed for random weights, drawn from PyTorch's generator."""
    return int(torch.randint(2**62, (), device='cpu'))


def file_source(path: str | Path) -> dict:
    """`PlainBackbone.weights_source` of a file or folder."""
    return dict(kind='file', path=str(path))


def reflect_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Continue ``(B, C, H, W)`` by its reflection right and bottom until ``multiple`` divides both sides.

    The last row and column of tokens then see what could be an image; zeros cost accuracy there (docs/results.md).
    """
    for dim in (2, 3):
        side = image.shape[dim]
        if side % multiple:
            place = torch.arange(side + -side % multiple, device=image.device) % max(2 * side - 2, 1)
            image = image.index_select(dim, torch.minimum(place, 2 * side - 2 - place).abs())
    return image


def cover_image(patches: Tensor, size: tuple[int, int], patch_size: int) -> Tensor:
    """Bring a map of the patches of a continued image to the image itself.

    Whatever is made of a map is resized to the image, by every head. Where the patches reach beyond the image, that
    would stretch it, so each of the cells returned stands for an equal part of the image alone.

    Args:
        patches: ``(B, D, h, w)``, of ``(h P, w P)`` pixels.
        size: of the image, ``(H, W)`` with ``h = ceil(H / P)`` and ``w = ceil(W / P)``.
        patch_size: P.

    Returns:
        ``(B, D, h, w)``, of ``(H, W)`` pixels; ``patches`` itself where P divides both.
    """
    for dim, side in zip((2, 3), size, strict=True):
        cells = patches.shape[dim]
        if cells * patch_size != side:
            place = (torch.arange(cells, device=patches.device) + 0.5) * (side / cells / patch_size) - 0.5
            place = place.clamp(0, cells - 1)
            before = place.floor().long()
            weight = (place - before).to(patches.dtype).view(-1, *[1] * (3 - dim))
            behind = (before + 1).clamp(max=cells - 1)
            patches = torch.lerp(patches.index_select(dim, before), patches.index_select(dim, behind), weight)
    return patches


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
