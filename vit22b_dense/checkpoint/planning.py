"""From one layout to another: which tensors a checkpoint will hold, and from which stored ones each is made."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import CheckpointError, describe, is_weight, listing, shorten
from .layouts import LAYOUTS, Layout, Sizes, Stored, part_shape
from .tensor_files import TensorInfo

Read = Callable[[str], Tensor]


@dataclass(frozen=True)
class Target:
    """A tensor of the checkpoint to be written.

    Attributes:
        name: its name. info: its shape and dtype.
        make: reads what it needs, by the names in the source, and returns it, maybe in another dtype.
    """

    name: str
    info: TensorInfo
    make: Callable[[Read], Tensor]


def copies(infos: Mapping[str, TensorInfo], prefix: str = '', dtype: torch.dtype | None = None) -> list[Target]:
    """Every tensor as it is, or those that begin with a prefix, without it.

    Args:
        infos: what the source holds.
        prefix: as the names begin.
        dtype: of the floating-point tensors; None keeps them.
    """
    return [
        Target(
            name.removeprefix(prefix),
            TensorInfo(info.shape, dtype if dtype and is_weight(info) else info.dtype),
            lambda read, name=name: read(name),
        )
        for name, info in infos.items()
        if name.startswith(prefix)
    ]


def find_layouts(infos: Mapping[str, TensorInfo]) -> list[tuple[Layout, str]]:
    """The layouts that the names of a checkpoint show, each with the prefix under which it lies."""
    found = []
    for layout in LAYOUTS.values():
        first = layout.signature[0]
        for name in infos:
            prefix = name.removesuffix(first)
            inside = name.endswith(first) and (not prefix or prefix.endswith('.'))
            if inside and all(prefix + other in infos for other in layout.signature):
                found.append((layout, prefix))
    return found


class Model:
    """The tensors of a checkpoint as those of a layout: complete and of the right shapes and types, or refused.

    Args:
        infos: name to shape and dtype, without a prefix.
        layout: what they are to be.
        source: the file's name for messages.
        num_heads: where it cannot be derived, or to insist on it. Derived from ``up_bias`` or the length of the
            query norm.
        grid: rows and columns of a flat position embedding; None: it is square.

    Attributes:
        layout: as given. sizes: the model's. num_layers: number of blocks. ignored: names that are left out.

    Raises:
        CheckpointError: tensors are missing or have no place in the layout, both shapes of those that differ, a type
            that is no floating point, a grid or number of heads that cannot be known.
    """

    def __init__(
        self,
        infos: Mapping[str, TensorInfo],
        layout: Layout,
        source: str | Path,
        num_heads: int | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        self.layout, self.source = layout, source
        self.ignored = [n for n in infos if _is_in(n, layout.ignored)]
        self.infos = {n: info for n, info in infos.items() if n not in self.ignored}
        pattern = re.compile(re.escape(layout.block_name).replace(r'\{\}', r'(\d+)') + '(.+)')
        matches = [m for n in self.infos if (m := pattern.fullmatch(n))]
        self.num_layers = 1 + max((int(m[1]) for m in matches), default=-1)
        in_blocks = {m[2] for m in matches}
        self.stem = [s for s in layout.stem if not s.optional or s.name in self.infos]
        self.block = [s for s in layout.block if not s.optional or s.name in in_blocks]
        self._check_names()
        self.sizes = self._find_sizes(num_heads, grid)
        self._check_shapes()

    def tensors(self) -> Iterator[tuple[str, int | None, Stored]]:
        """Name, number of the block (None outside of them) and `Stored` of every tensor."""
        yield from ((stored.name, None, stored) for stored in self.stem)
        for i in range(self.num_layers):
            yield from ((self.layout.block_name.format(i) + stored.name, i, stored) for stored in self.block)

    def _refuse(self, reason: str) -> CheckpointError:
        return CheckpointError(f'{self.source}: does not fit the layout {self.layout.name!r}: {reason}')

    def _check_names(self) -> None:
        wanted = {name for name, _, _ in self.tensors()}
        missing, surplus = sorted(wanted - self.infos.keys()), sorted(self.infos.keys() - wanted)
        if not self.num_layers:
            missing.append(self.layout.block_name.format(0) + '…')
        reasons = []
        if missing:
            reasons.append(f'{len(missing)} tensors are missing: {shorten(missing)}')
        if surplus:
            reasons.append(
                f'{len(surplus)} tensors have no place in it: {listing({n: self.infos[n] for n in surplus})}'
            )
        if reasons:
            raise self._refuse('; '.join(reasons))

    def _info_of(self, part: str) -> tuple[str, TensorInfo, Stored]:
        name, stored = next((n, s) for n, _, s in self.tensors() if part in s.parts)
        return name, self.infos[name], stored

    def _find_sizes(self, num_heads: int | None, grid: tuple[int, int] | None) -> Sizes:
        name, patch, _ = self._info_of('patch.weight')
        if len(patch.shape) != 4:
            raise self._refuse(f'{describe(name, patch.shape)} is not (D, channels, height, width)')
        embed_dims = patch.shape[0]
        mlp_dims = math.prod(self._info_of('up.bias')[1].shape)
        return Sizes(
            embed_dims, mlp_dims, self._find_heads(embed_dims, num_heads), self._find_grid(grid), patch.shape[1:]
        )

    def _find_grid(self, given: tuple[int, int] | None) -> tuple[int, int]:
        name, info, stored = self._info_of('pos')
        if len(info.shape) == 4:
            return info.shape[1:3]
        count = (info.shape[1] if len(info.shape) == 3 else 0) - ('cls_pos' in stored.parts)
        side = math.isqrt(max(count, 0))
        height, width = given or (side, side)
        if count < 1 or height * width != count:
            raise self._refuse(
                f'{describe(name, info.shape)} holds {count} positions, which are not {height}x{width}; '
                'name the rows and columns with --grid HxW'
            )
        return height, width

    def _find_heads(self, embed_dims: int, given: int | None) -> int:
        if self.layout.family != 'parallel':
            return 0
        name, info, _ = self._info_of('up.bias')
        if len(info.shape) == 2:
            derived = info.shape[0]
        else:
            name, info, _ = self._info_of('q_norm')
            length = math.prod(info.shape)
            derived = embed_dims // length if length and embed_dims % length == 0 else 0
            if derived == 1 and not given:
                raise self._refuse(
                    f'{describe(name, info.shape)} spans the whole width, where ViT-22B normalises each head; with '
                    'one head that is the same: say so with --num-heads 1'
                )
        if not derived or (given and given != derived):
            raise self._refuse(
                f'{describe(name, info.shape)} means {derived or "no whole number of"} heads of width {embed_dims}, '
                f'--num-heads says {given}'
            )
        return derived

    def _check_shapes(self) -> None:
        sizes = self.sizes
        if self.layout.family == 'parallel' and (
            sizes.embed_dims % sizes.num_heads or sizes.mlp_dims % sizes.num_heads
        ):
            raise self._refuse(
                f'{sizes.num_heads} heads do not divide the widths {sizes.embed_dims}, {sizes.mlp_dims}'
            )
        wrong = []
        for name, _, stored in self.tensors():
            shape, info = stored_shape(stored, sizes), self.infos[name]
            if shape != info.shape:
                wrong.append(f'{describe(name, info.shape)}, expected {shape}')
            elif not is_weight(info):
                wrong.append(f'{describe(name, info.shape, info.dtype)}, expected floating point')
        if wrong:
            raise self._refuse(shorten(wrong))


def _is_in(name: str, ignored: tuple[str, ...]) -> bool:
    return any(name == entry or (entry.endswith('.') and name.startswith(entry)) for entry in ignored)


def stored_shape(stored: Stored, sizes: Sizes) -> tuple[int, ...]:
    """The shape of a stored tensor, found by joining empty parts."""
    parts = [torch.empty(part_shape(part, sizes), device='meta') for part in stored.parts]
    return tuple(stored.join(parts, sizes).shape)


def plan(model: Model, target: Layout, prefix: str = '', dtype: torch.dtype | None = None) -> list[Target]:
    """The tensors of a model in another layout of its family.

    Args:
        model: the source.
        target: the layout to be written.
        prefix: of the source's names, for reading.
        dtype: of the result; None: as the tensors that each is made from.

    Raises:
        CheckpointError: another family, a tensor that the target cannot hold or that it needs and the source lacks,
            parts of different types.
    """
    if target.family != model.layout.family:
        raise CheckpointError(
            f'{model.source}: the layout {model.layout.name!r} has {model.layout.family} blocks, {target.name!r} has '
            f'{target.family} ones: they compute different functions, and no conversion leads from one to the other'
        )
    targets = []
    for stored_here, stored_there, numbers in (
        (model.stem, target.stem, [None]),
        (model.block, target.block, list(range(model.num_layers))),
    ):
        holders = {part: stored for stored in stored_here for part in stored.parts}
        chosen = []
        for stored in stored_there:
            lacking = [part for part in stored.parts if part not in holders]
            if not lacking:
                chosen.append(stored)
            elif not stored.optional or len(lacking) < len(stored.parts):
                raise CheckpointError(
                    f'{model.source}: has no {", ".join(lacking)}, which {stored.name} of the layout '
                    f'{target.name!r} needs'
                )
        placed = {part for stored in chosen for part in stored.parts}
        homeless = [s.name for s in stored_here if not placed.issuperset(s.parts)]
        if homeless:
            raise CheckpointError(f'{model.source}: the layout {target.name!r} has no place for {shorten(homeless)}')
        for number in numbers:
            targets += [_target(model, target, stored, number, holders, prefix, dtype) for stored in chosen]
    return targets


def _target(
    model: Model,
    target: Layout,
    stored: Stored,
    number: int | None,
    holders: Mapping[str, Stored],
    prefix: str,
    dtype: torch.dtype | None,
) -> Target:
    def full_name(layout: Layout, leaf: str) -> str:
        return leaf if number is None else layout.block_name.format(number) + leaf

    sizes = model.sizes
    name = full_name(target, stored.name)
    sources = {full_name(model.layout, holders[p].name): holders[p] for p in stored.parts}
    types = {n: model.infos[n].dtype for n in sources}
    if dtype is None and len(set(types.values())) > 1:
        mixed = [describe(n, model.infos[n].shape, t) for n, t in types.items()]
        raise CheckpointError(
            f'{model.source}: {name} would be joined from different types: {shorten(mixed)}; choose one with --dtype'
        )

    def make(read: Read) -> Tensor:
        parts = {}
        for source, holder in sources.items():
            tensor = read(prefix + source)
            if len(set(types.values())) > 1:
                tensor = tensor.float()
            parts.update(zip(holder.parts, holder.split(tensor, sizes), strict=True))
        return stored.join([parts[p] for p in stored.parts], sizes)

    return Target(name, TensorInfo(stored_shape(stored, sizes), dtype or next(iter(types.values()))), make)
