"""What every backbone here promises: what `frozen` means, embed -> blocks -> maps, and where its weights come from."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...checkpoint import Reference
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
        frozen, with_cp: as for `ViT22B`.
        weights_source: ``dict(kind='file', path=…)``, ``dict(kind='hub', name=…, revision=…)`` or
            ``dict(kind='random', seed=…)``.
    """

    embed_dims: int
    num_layers: int
    patch_size: int
    weights_source: dict

    def set_up(self, num_layers: int, out_indices: Sequence[int], frozen: bool, with_cp: bool, dtype: str) -> None:
        """Set what all backbones share, once the modules are there.

        Raises:
            ValueError: an ``out_indices`` outside the depth; weights of low precision that are to learn.
        """
        if dtype not in DTYPES or (dtype != 'float32' and not frozen):
            known = ', '.join(DTYPES)
            raise ValueError(f'dtype={dtype!r}: choose one of {known}; all but float32 only with frozen=True')
        self.num_layers, self.frozen, self.with_cp = num_layers, frozen, with_cp
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
                tokens = block(tokens, **shared)
            yield i, tokens

    def shared_inputs(self, tokens: Tensor, size: tuple[int, int]) -> dict:
        """What each block takes beside the tokens."""
        return {}

    def maps(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens behind a block ``(B, N, D)`` to a map ``(B, D, h, w)``, with the final norm."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of a batch of images.

        Args:
            x: ``(B, 3, H, W)``, normalised. Sizes that P does not divide are padded with zeros right and bottom.
                The weights may have another dtype: a frozen bf16 backbone in a model of fp32 heads.

        Returns:
            One map for each of ``out_indices``: ``(B, D, ceil(H/P), ceil(W/P))``, each with the final norm, in
            the dtype of ``x`` (under autocast, as autocast has it).

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
                    maps[i] = self.maps(behind, size).to(x.dtype)
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


def draw_seed() -> int:
    """A seed for random weights, drawn from PyTorch's generator."""
    return int(torch.randint(2**62, (), device='cpu'))


def file_source(path: str | Path) -> dict:
    """`PlainBackbone.weights_source` of a file or folder."""
    return dict(kind='file', path=str(path))


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad ``(B, C, H, W)`` with zeros right and bottom until ``multiple`` divides both sides."""
    height, width = -image.shape[2] % multiple, -image.shape[3] % multiple
    return F.pad(image, (0, width, 0, height)) if height or width else image


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
