"""Converting a checkpoint: from any format and layout to any other of the same model."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import CheckpointError, describe, itemise, shorten
from .layouts import LAYOUTS, OURS, PARALLEL, Layout, Stored, part_shape, size_letters
from .reading import INDEX, LazyWeights, open_weights
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
    if target_layout != SAME:
        layout, found = _find_layout(weights, source_layout, prefix)
        here, target_layout = layout.name, target_layout or OURS[layout.family]
    if target_layout in {SAME, here}:
        weights = weights.under(prefix or '')
    else:
        notes = _notes(weights, layout, found)
        weights = _relaid(weights.under(found), layout, LAYOUTS[target_layout], grid, mixed=dtype is not None)
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
    found = [(layout, p) for layout, p in every if wanted in {None, layout.name} and prefix in {None, p, p[:-1]}]
    if len(found) == 1:
        return found[0]
    seen = ', '.join(f'{layout.name} (prefix {p!r})' if p else layout.name for layout, p in every) or 'none'
    if wanted and not found:
        _tensors_of(weights.under(prefix or ''), LAYOUTS[wanted])  # its signature is incomplete: says what is missing
    advice = 'choose one with --from and --prefix'
    if not found:
        advice = (
            f'known are {", ".join(LAYOUTS)}. Name one with --from and --prefix to see what it lacks, or change the '
            f'format only, with --to {SAME}. It has {shorten(weights.keys())}'
        )
    raise CheckpointError(f'{weights.path}: recognised layouts: {seen}; {advice}')


def other_layout(weights: LazyWeights, own: Mapping[str, Tensor]) -> str | None:
    """The name of the one layout that weights show by their names, where it is not the one that a model has here.

    Args:
        weights: of a backbone. own: the model's names, as in its state dict.
    """
    try:
        layout, _ = _find_layout(weights, None, None)
    except CheckpointError:
        return None
    return None if set(layout.signature) <= set(own) else layout.name


def _notes(weights: LazyWeights, layout: Layout, prefix: str) -> list[str]:
    notes, ignored = [], tuple(prefix + name for name in layout.ignored)
    if left_out := [n for n in weights if not n.startswith(prefix) or n.startswith(ignored)]:
        notes.append(f'left out {len(left_out)} tensors that are not of the backbone: {shorten(left_out)}')
    biases = [n for n in weights if n.startswith(prefix) and n.endswith('.mlp_bias')]
    if layout is PARALLEL and any(weights.read(name).any() for name in biases):
        notes.append(
            'mlp_bias is taken as the bias of the MLP, which it is in timm since January 2026. Before, timm added it '
            'in the wrong place, partly to q, k and v (its issue 2653); a model trained with such a version is not '
            'reproduced by any layout here'
        )
    return notes


def _relaid(
    weights: LazyWeights, here: Layout, there: Layout, grid: tuple[int, int] | None, mixed: bool
) -> LazyWeights:
    """The weights of a model from one layout to another; with ``mixed`` tensors are joined also from several types."""
    path = weights.path
    if here.family != there.family:
        raise CheckpointError(
            f'{path}: the layout {here.name!r} has {here.family} blocks, {there.name!r} has {there.family} ones: they '
            'compute different functions, no conversion leads from one to the other'
        )
    stored, num_layers = _tensors_of(weights, here)
    sizes = _sizes_of(weights, stored, here, grid)
    sources = {part: tensor for tensor in stored.values() for part in tensor.parts}
    targets = {}
    for target in there.tensors(num_layers):
        lacking = [part for part in target.parts if part not in sources]
        if not lacking:
            targets[target.name] = target
        elif not target.optional or len(lacking) < len(target.parts):
            raise CheckpointError(
                f'{path}: has no {", ".join(lacking)}, which {target.name} of the layout {there.name!r} needs'
            )
    placed = {part for target in targets.values() for part in target.parts}
    if homeless := dict.fromkeys(source.name for part, source in sources.items() if part not in placed):
        raise CheckpointError(f'{path}: the layout {there.name!r} has no place for {shorten(homeless.keys())}')

    def join(name: str, read: Callable[[str], Tensor]) -> Tensor:
        target, parts = targets[name], {}
        needed = dict.fromkeys(sources[part] for part in target.parts)
        differ = len({weights[source.name].dtype for source in needed}) > 1
        if differ and not mixed:
            found = shorten({source.name: weights[source.name] for source in needed})
            raise CheckpointError(f'{path}: {name} would be joined from {found}; choose one type with --dtype')
        for source in needed:
            tensor = read(source.name).float() if differ else read(source.name)
            parts |= zip(source.parts, source.split(tensor, sizes), strict=True)
        return target.join([parts[part] for part in target.parts], sizes)

    infos = {name: join(name, weights.get) for name in targets}
    return LazyWeights(path, infos, lambda name: join(name, weights.read), weights.meta)


def _tensors_of(weights: LazyWeights, layout: Layout) -> tuple[dict[str, Stored], int]:
    """The tensors of a model in a layout by name, all there and no others, and its number of blocks."""
    number = re.compile('^' + re.escape(layout.block_name).replace(r'\{\}', r'(\d+)'))
    num_layers = 1 + max((int(match[1]) for name in weights if (match := number.match(name))), default=0)
    present = {number.sub('block.', name) for name in weights}  # what one block has, all must have
    every = layout.tensors(num_layers)
    stored = {s.name: s for s in every if not s.optional or number.sub('block.', s.name) in present}
    surplus = {n: t for n, t in weights.items() if n not in stored and not n.startswith(layout.ignored)}
    _refuse(weights, layout, {'missing': [n for n in stored if n not in weights], 'no place for': surplus})
    return stored, num_layers


def _sizes_of(
    weights: LazyWeights, stored: dict[str, Stored], layout: Layout, grid: tuple[int, int] | None
) -> dict[str, int]:
    """The sizes that the shapes of all tensors follow from."""
    sizes, wrong = dict.fromkeys('DMNHcijhw', 0), []
    for name, tensor in reversed(stored.items()):  # reversed, so that the first tensor of a size decides
        shape = weights[name].shape
        if not tensor.how:
            sizes |= zip(size_letters(tensor.parts[0]), shape, strict=False)
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


def _refuse(weights: LazyWeights, layout: Layout, wrong: dict) -> None:
    if reasons := itemise(wrong):
        raise CheckpointError(f'{weights.path}: does not fit the layout {layout.name!r}: {"; ".join(reasons)}')
