"""Converting a checkpoint: from any format and layout to any other of the same model."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import CheckpointError, describe, itemise, shorten
from .layouts import LAYOUTS, OURS, PARTS, Layout, Stored, part_shape
from .reading import INDEX, LazyWeights, open_weights, with_dot
from .writing import Progress, write_weights

SAME = 'same'


class Conversion(NamedTuple):
    """What was written, and ``notes`` for the user; the layouts are ``'same'`` where only the format changed."""

    source_layout: str
    target_layout: str
    tensors: int
    nbytes: int
    notes: list[str]


def convert_checkpoint(
    source: str | Path,
    destination: str | Path,
    source_layout: str | None = None,
    target_layout: str | None = None,
    grid: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5 * 10**9,
    prefix: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Convert a checkpoint, tensor by tensor.

    Where the layout stays, all tensors are kept, or those that begin with ``prefix``. Where it changes, the backbone
    alone is kept, without its prefix, and checked name by name and shape by shape.

    Args:
        source: ``.safetensors``, a folder or index of its shards, or a ``.pth``.
        destination: its format follows from its name, see `write_weights`.
        source_layout: one of `LAYOUTS`; None: found by the names.
        target_layout: one of `LAYOUTS`, or ``'same'``; None: ours for the source's.
        grid: rows and columns of a flat position embedding that is not square.
        dtype: of the floating-point tensors; None keeps them.
        prefix: under which the backbone lies; None: found by the names.
        max_shard_bytes, overwrite, progress: see `write_weights`.

    Raises:
        CheckpointError: nothing was written; the message names the file and what to do.
    """
    source, destination = Path(source).expanduser(), Path(destination).expanduser()
    for name, known in ((source_layout, [*LAYOUTS]), (target_layout, [*LAYOUTS, SAME])):
        if name not in {None, *known}:
            raise CheckpointError(f'unknown layout {name!r}: choose one of {", ".join(known)}')
    weights, here, notes = open_weights(source), SAME, []
    _check_apart(source, destination)
    prefix = None if prefix is None else with_dot(prefix)
    if target_layout != SAME:
        layout, found = _find_layout(weights, source_layout, prefix)
        here, target_layout = layout.name, target_layout or OURS[layout.family]
    if target_layout in {SAME, here}:
        weights = weights.under(prefix or '')
    else:
        weights, notes = _relaid(weights, found, layout, LAYOUTS[target_layout], grid, dtype)
    weights = weights.cast(dtype) if dtype else weights
    write_weights(destination, weights, max_shard_bytes, overwrite, progress)
    return Conversion(here, target_layout, len(weights), sum(tensor.nbytes for tensor in weights.values()), notes)


def _check_apart(source: Path, destination: Path) -> None:
    """Refuse a destination that is the source, or lies around or inside of it."""
    here = source.parent if source.name.endswith(INDEX) else source
    same = destination.exists() and here.samefile(destination)
    first, second = here.resolve(), destination.resolve()
    if same or first.is_relative_to(second) or second.is_relative_to(first):
        raise CheckpointError(
            f'{destination}: the destination is, holds or lies in the source {source}; choose another'
        )


def _find_layout(weights: LazyWeights, wanted: str | None, prefix: str | None) -> tuple[Layout, str]:
    """The one layout that the names show and the prefix under which it lies, of those that are wanted."""
    every = []
    for layout in LAYOUTS.values():
        first = layout.signature[0]
        prefixes = [n.removesuffix(first) for n in weights if n == first or n.endswith('.' + first)]
        every += [(layout, p) for p in prefixes if all(p + name in weights for name in layout.signature)]
    found = [(layout, p) for layout, p in every if wanted in {None, layout.name} and prefix in {None, p}]
    if len(found) == 1:
        return found[0]
    seen = ', '.join(f'{layout.name} (prefix {p!r})' if p else layout.name for layout, p in every) or 'none'
    what = f'{weights.path}: recognised layouts: {seen}'
    if found:
        raise CheckpointError(f'{what}; choose one with --from and --prefix')
    if wanted:
        _stored(weights.under(prefix or ''), LAYOUTS[wanted])  # its signature is incomplete: says what is missing
    raise CheckpointError(
        f'{what}{" under the prefix asked for" if every else ""}. Known are {", ".join(LAYOUTS)}: name one with '
        f'--from and --prefix to see what it lacks, or change the format only, with --to {SAME}. It has '
        f'{shorten(list(weights))}'
    )


def _relaid(
    weights: LazyWeights,
    prefix: str,
    here: Layout,
    there: Layout,
    grid: tuple[int, int] | None,
    dtype: torch.dtype | None,
) -> tuple[LazyWeights, list[str]]:
    """The weights of the backbone in another layout, and notes for the user."""
    if here.family != there.family:
        raise CheckpointError(
            f'{weights.path}: the layout {here.name!r} has {here.family} blocks, {there.name!r} has {there.family} '
            'ones: they compute different functions, no conversion leads from one to the other'
        )
    whole, weights, notes = weights, weights.under(prefix), []
    stored, num_layers = _stored(weights, here)
    if left_out := [name for name in whole if not (name.startswith(prefix) and name.removeprefix(prefix) in stored)]:
        notes.append(f'left out {len(left_out)} tensors that are not of the backbone: {shorten(left_out)}')
    if here.name == 'parallel' and any(weights.read(name).any() for name in stored if name.endswith('.mlp_bias')):
        notes.append(
            'mlp_bias is taken as the bias of the MLP, which it is in timm since January 2026. Before, timm added it '
            'in the wrong place, partly to q, k and v (its issue 2653); a model trained with such a version is not '
            'reproduced by any layout here'
        )
    sizes = _sizes(weights, stored, here, grid)
    holders = {s.block + part: s for s in stored.values() for part in s.parts}
    made = {}
    for target in there.tensors(num_layers):
        lacking = [part for part in target.parts if target.block + part not in holders]
        if not lacking:
            made[target.name] = target
        elif not target.optional or len(lacking) < len(target.parts):
            raise CheckpointError(
                f'{weights.path}: has no {", ".join(lacking)}, which {target.name} of the layout {there.name!r} needs'
            )
    placed = {target.block + part for target in made.values() for part in target.parts}
    if homeless := list(dict.fromkeys(s.name for part, s in holders.items() if part not in placed)):
        raise CheckpointError(f'{weights.path}: the layout {there.name!r} has no place for {shorten(homeless)}')

    def join(name: str, read: Callable[[str], Tensor]) -> Tensor:
        target, parts = made[name], {}
        sources = dict.fromkeys(holders[target.block + part] for part in target.parts)
        mixed = len({weights[source.name].dtype for source in sources}) > 1
        if mixed and not dtype:
            found = shorten([describe(source.name, weights[source.name]) for source in sources])
            raise CheckpointError(
                f'{weights.path}: {name} would be joined from different types: {found}; choose one with --dtype'
            )
        for source in sources:
            tensor = read(source.name).float() if mixed else read(source.name)
            parts |= zip(source.parts, source.split(tensor, sizes), strict=True)
        return target.join([parts[part] for part in target.parts], sizes)

    infos = {name: join(name, weights.get) for name in made}
    return LazyWeights(weights.path, infos, lambda name: join(name, weights.read), weights.meta), notes


def _stored(weights: LazyWeights, layout: Layout) -> tuple[dict[str, Stored], int]:
    """The tensors of a model in a layout by name, all there and no others, and its number of blocks."""
    number = re.compile(re.escape(layout.block_name).replace(r'\{\}', r'(\d+)'))
    num_layers = 1 + max((int(match[1]) for name in weights if (match := number.match(name))), default=0)
    every = list(layout.tensors(num_layers))
    present = {(bool(s.block), s.parts) for s in every if s.name in weights}  # what one block has, all must have
    stored = {s.name: s for s in every if not s.optional or (bool(s.block), s.parts) in present}
    missing = [name for name in stored if name not in weights]
    surplus = [describe(n, t) for n, t in weights.items() if n not in stored and not n.startswith(layout.ignored)]
    _refuse(weights, layout, {'missing': missing, 'no place for': surplus})
    return stored, num_layers


def _sizes(
    weights: LazyWeights, stored: dict[str, Stored], layout: Layout, grid: tuple[int, int] | None
) -> dict[str, int]:
    """The sizes that the shapes of all tensors follow from."""
    sizes, wrong = dict.fromkeys('DMNHcijhw', 0), []
    for name, tensor in reversed(stored.items()):  # reversed, so that the first tensor of a size decides
        shape = weights[name].shape
        if not tensor.how:
            sizes |= zip(PARTS.get(tensor.parts[0], 'D'), shape, strict=False)
        elif tensor.how == 'per_head':
            sizes['M'] = shape.numel()
        elif tensor.how == 'flat':
            count = shape[1:-1].numel() - len(tensor.parts) + 1
            sizes['h'], sizes['w'] = rows, columns = grid or (math.isqrt(max(count, 0)),) * 2
            if count < 1 or rows * columns != count:
                what = f'{count} positions, which are not {rows}x{columns}; name the rows and columns with --grid HxW'
                wrong.append(f'{describe(name, weights[name])} holds {what}')
    sizes['1'] = 1
    if layout.family == 'parallel':
        width, hidden, length = sizes['D'], sizes['M'], sizes['N']
        sizes['H'] = width // length if length else 0
        if not sizes['H'] or width % length or hidden % sizes['H']:
            wrong.append(f'the widths {width} and {hidden} are not those of whole heads of {length}, as q_norm has')
    _refuse(weights, layout, {'sizes that cannot be': wrong})
    wrong = []
    for name, tensor in stored.items():
        parts = [torch.empty(part_shape(part, sizes), device='meta') for part in tensor.parts]
        shape, found = tuple(tensor.join(parts, sizes).shape), weights[name]
        if found.shape != shape or not found.is_floating_point():
            wrong.append(f'{describe(name, found)}, expected {shape} of floating point')
    _refuse(weights, layout, {'other shape or type': wrong})
    return sizes


def _refuse(weights: LazyWeights, layout: Layout, wrong: dict[str, list[str]]) -> None:
    if reasons := itemise(wrong):
        raise CheckpointError(f'{weights.path}: does not fit the layout {layout.name!r}: {"; ".join(reasons)}')
