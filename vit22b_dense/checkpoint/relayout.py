"""From one layout to another: complete and of the right shapes, or refused; a few tensors in memory at a time."""

import math
import re
from collections.abc import Callable

import torch
from torch import Tensor

from .errors import CheckpointError, describe, itemise, shorten
from .layouts import Layout, Stored, part_shape, size_letters
from .reading import LazyWeights


def relaid(
    weights: LazyWeights, here: Layout, there: Layout, grid: tuple[int, int] | None, mixed: bool
) -> LazyWeights:
    """The weights of a model, without a prefix, from one layout to another; with ``mixed`` also from mixed types.

    Raises:
        CheckpointError: they are not exactly those of the layout, or the other one cannot hold them.
    """
    path = weights.path
    if here.family != there.family:
        raise CheckpointError(
            f'{path}: the layout {here.name!r} has {here.family} blocks, {there.name!r} has {there.family} ones: they '
            'compute different functions, no conversion leads from one to the other'
        )
    stored, num_layers = tensors_of(weights, here)
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


def tensors_of(weights: LazyWeights, layout: Layout) -> tuple[dict[str, Stored], int]:
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
