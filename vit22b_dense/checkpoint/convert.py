"""Converting a checkpoint: from any format and layout to any other of the same model."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import CheckpointError, describe, itemise, shorten
from .layouts import LAYOUTS, SHAPES, Layout, from_ours, to_ours
from .reading import INDEX, LazyWeights, open_weights
from .writing import Progress, write_weights

SAME = 'same'


class Conversion(NamedTuple):
    """What was written, and the names that were left out; the layouts are ``'same'`` where only the format changed."""

    source_layout: str
    target_layout: str
    tensors: int
    nbytes: int
    left_out: list[str]


def convert_checkpoint(
    source: str | Path,
    destination: str | Path,
    source_layout: str | None = None,
    target_layout: str | None = None,
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
        dtype: of the floating-point tensors; None keeps them.
        prefix: under which the backbone lies; None: found by the names.
        max_shard_bytes, overwrite, progress: see `write_weights`.

    Raises:
        CheckpointError: nothing was written; the message names the file and what to do.
    """
    source, destination = Path(source).expanduser(), Path(destination).expanduser()
    if target_layout not in {None, SAME, *LAYOUTS}:
        raise CheckpointError(f'unknown layout {target_layout!r}: choose one of {", ".join([*LAYOUTS, SAME])}')
    check_apart(source, destination)
    weights, found, left_out = open_weights(source), SAME, []
    if target_layout != SAME:
        layout, under = _find_layout(weights, source_layout, prefix)
        found, target_layout = layout.name, target_layout or layout.ours
    if target_layout in {SAME, found}:
        weights = weights.under(prefix or '')
    else:
        ignored = tuple(under + name for name in layout.ignored)
        left_out = [n for n in weights if not n.startswith(under) or n.startswith(ignored)]
        weights = _relaid(weights.under(under), layout, LAYOUTS[target_layout])
    weights = weights.cast(dtype) if dtype else weights
    write_weights(destination, weights, max_shard_bytes, overwrite, progress)
    return Conversion(found, target_layout, len(weights), sum(tensor.nbytes for tensor in weights.values()), left_out)


def check_apart(source: str | Path, destination: str | Path) -> None:
    """Refuse a destination that is, holds or lies in the source, which is never changed.

    Raises:
        CheckpointError: it does.
    """
    source, destination = Path(source).expanduser(), Path(destination).expanduser()
    here = (source.parent if source.name.endswith(INDEX) else source).resolve()
    if here.is_relative_to(destination.resolve()) or destination.resolve().is_relative_to(here):
        raise CheckpointError(f'{destination}: is, holds or lies in the source {source}; choose another')


def _find_layout(weights: LazyWeights, wanted: str | None, prefix: str | None) -> tuple[Layout, str]:
    """The one layout that the names show and the prefix under which it lies, of those that are wanted."""
    every = [
        (layout, name.removesuffix(layout.signature))
        for layout in LAYOUTS.values()
        for name in weights
        if f'.{name}'.endswith(f'.{layout.signature}')
    ]
    found = [(layout, p) for layout, p in every if wanted in {None, layout.name} and prefix in {None, p, p[:-1]}]
    if len(found) != 1:
        seen = ', '.join(f'{layout.name} (prefix {p!r})' if p else layout.name for layout, p in every) or 'none'
        known = ', '.join(f'{name} (by its {layout.signature})' for name, layout in LAYOUTS.items())
        raise CheckpointError(
            f'{weights.path}: recognised layouts: {seen}; choose one with --from and --prefix, or change the format '
            f'only, with --to {SAME}. Known are {known}. It has {shorten(weights.keys())}'
        )
    return found[0]


def other_layout(weights: LazyWeights, own: Mapping[str, Tensor]) -> str | None:
    """The name of the one layout that weights show by their names, where it is not the one that a model has here.

    Args:
        weights: of a backbone. own: the model's names, as in its state dict.
    """
    try:
        layout, _ = _find_layout(weights, None, None)
    except CheckpointError:
        return None
    return None if layout.signature in own else layout.name


def _relaid(weights: LazyWeights, here: Layout, there: Layout) -> LazyWeights:
    """The weights of a model from one layout to another."""
    if here.ours != there.ours:
        raise CheckpointError(
            f'{weights.path}: no conversion leads from {here.name!r} to {there.name!r}: parallel blocks (as in '
            "'vit22b') and sequential ones (as in 'plain') compute different functions"
        )
    ours = _regrouped(weights, here, to_ours)
    _check_shapes(ours, here)
    return _regrouped(ours, there, from_ours)


def _regrouped(weights: LazyWeights, layout: Layout, change: Callable) -> LazyWeights:
    """Weights of a layout as ours, or ours in a layout: every tensor of it, and no others."""
    block_name, ignored = (layout.block_name, layout.ignored) if change is to_ours else ('blocks.{}.', ())
    number = re.compile(re.escape(block_name).replace(r'\{\}', r'(\d+)'))
    num_layers = 1 + max((int(match[1]) for name in weights if (match := number.match(name))), default=0)
    groups = [(g[1], g[0], *g[2:]) if change is to_ours else g for g in layout.groups(num_layers)]
    has = {optional for sources, *_, optional in groups if any(name in weights for name in sources)}
    groups = [g for g in groups if not g[3] or g[3] in has]  # what one block has, all must have
    wanted = {name for sources, *_ in groups for name in sources}
    surplus = {n: t for n, t in weights.items() if n not in wanted and not n.startswith(ignored)}
    whole = {n: t for n, t in weights.items() if n in wanted and not t.is_floating_point()}
    missing = sorted(wanted - weights.keys())
    _refuse(weights, layout, {'missing': missing, 'no place for': surplus, 'not floating point': whole})
    heads = 0
    if layout.ours == 'vit22b':  # these two have the same names everywhere
        length = max(weights['blocks.0.q_norm.weight'].numel(), 1)
        heads = weights['blocks.0.in_proj.weight'].shape[-1] // length
    made = {name: (sources, how, i) for sources, targets, how, _ in groups for i, name in enumerate(targets)}

    def read(name: str, get: Callable[[str], Tensor]) -> Tensor:
        sources, how, i = made[name]
        try:
            return change(how, [get(source) for source in sources], heads)[i]
        except (RuntimeError, IndexError) as error:
            what = shorten({source: weights[source] for source in sources})
            raise CheckpointError(f'{weights.path}: {what}: cannot be made {name} ({error})') from error

    infos = {name: read(name, weights.get) for name in made}
    return LazyWeights(weights.path, infos, lambda name: read(name, weights.read), weights.meta)


def _check_shapes(weights: LazyWeights, layout: Layout) -> None:
    """Refuse weights in our layout whose shapes are not those of one model."""
    stem, block = SHAPES[layout.ours]
    shapes = {n: (block[n.split('.', 2)[2]] if n.startswith('blocks.') else stem[n]).rstrip('?') for n in weights}
    sizes = dict.fromkeys('DMHmhwNcij', 0)
    for name, letters in reversed(shapes.items()):  # so that the first tensor of a size decides
        sizes |= zip(letters, weights[name].shape, strict=False)
    if layout.ours == 'vit22b':
        sizes['M'], heads = sizes['H'] * sizes['m'], max(sizes['H'], 1)
        sizes['N'] = 0 if sizes['D'] % heads else sizes['D'] // heads
    width, hidden = sizes['D'], sizes['M']
    sizes |= {'1': 1, 'Q': 3 * width, 'I': 3 * width + hidden, 'O': width + hidden}
    expected = {name: tuple(sizes[letter] for letter in letters) for name, letters in shapes.items()}
    wrong = [
        f'{describe(name, tensor)}, expected {expected[name]}'
        for name, tensor in weights.items()
        if tensor.shape != expected[name]
    ]
    _refuse(weights, layout, {'other shape': wrong})


def _refuse(weights: LazyWeights, layout: Layout, wrong: dict) -> None:
    if reasons := itemise(wrong):
        raise CheckpointError(f'{weights.path}: does not fit the layout {layout.name!r}: {"; ".join(reasons)}')
