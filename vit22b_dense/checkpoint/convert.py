"""Converting a checkpoint: from any format and layout to any other of the same model."""

from pathlib import Path
from typing import NamedTuple

import torch

from .errors import CheckpointError, shorten
from .layouts import LAYOUTS, OURS, PARALLEL, Layout
from .reading import INDEX, LazyWeights, open_weights
from .relayout import relaid, tensors_of
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
        weights = relaid(weights.under(found), layout, LAYOUTS[target_layout], grid, mixed=dtype is not None)
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
        tensors_of(weights.under(prefix or ''), LAYOUTS[wanted])  # its signature is incomplete: says what is missing
    advice = 'choose one with --from and --prefix'
    if not found:
        advice = (
            f'known are {", ".join(LAYOUTS)}. Name one with --from and --prefix to see what it lacks, or change the '
            f'format only, with --to {SAME}. It has {shorten(weights.keys())}'
        )
    raise CheckpointError(f'{weights.path}: recognised layouts: {seen}; {advice}')


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
