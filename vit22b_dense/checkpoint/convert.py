"""Converting a checkpoint: from any format and layout to any other of the same model."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import CheckpointError, shorten
from .layouts import LAYOUTS, OURS, PARALLEL, Layout
from .planning import Model, Target, copies, find_layouts, plan
from .reading import PickledFile, WeightSource, open_weights
from .tensor_files import INDEX
from .writing import Progress, check_destination, write_weights

SAME = 'same'


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        source_layout, target_layout: names of layouts; ``'same'`` where only the format changed.
        tensors: number of tensors written. nbytes: their bytes.
        notes: what the user should know: tensors left out, doubts.
    """

    source_layout: str
    target_layout: str
    tensors: int
    nbytes: int
    notes: tuple[str, ...]


def convert_checkpoint(
    source: str | Path,
    destination: str | Path,
    source_layout: str | None = None,
    target_layout: str | None = None,
    num_heads: int | None = None,
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
        destination: as `write_weights` names formats.
        source_layout: one of `LAYOUTS`; None: found by the names.
        target_layout: one of `LAYOUTS`, or ``'same'``; None: ours for the source's.
        num_heads: needed only where it cannot be derived.
        grid: rows and columns of a flat position embedding that is not square.
        dtype: of the floating-point tensors; None keeps them.
        max_shard_bytes: a shard's most.
        prefix: under which the backbone lies; None: found by the names.
        overwrite: replace the destination.
        progress: called with bytes done and bytes in all.

    Returns:
        What was done.

    Raises:
        CheckpointError: nothing was written; the message names the file and what to do.
    """
    source, destination = Path(source).expanduser(), Path(destination).expanduser()
    for name in (source_layout, target_layout):
        if name not in {None, SAME, *LAYOUTS} or name == SAME == source_layout:
            raise CheckpointError(f'unknown layout {name!r}: choose one of {", ".join(LAYOUTS)}')
    stored = open_weights(source)
    _check_apart(source, destination)
    check_destination(destination, overwrite)
    if prefix and not prefix.endswith('.'):
        prefix += '.'
    here, prefix_found = (None, prefix or '')
    if target_layout != SAME:
        here, prefix_found = _source_layout(stored, source_layout, prefix)
        target_layout = target_layout or OURS[here.family].name
    notes: list[str] = []
    if target_layout == SAME or here is LAYOUTS[target_layout]:
        targets = copies(stored.infos, prefix or '', dtype)
        if not targets:
            raise CheckpointError(f'{source}: no tensor begins with {prefix!r}; it has {shorten(list(stored.infos))}')
    else:
        targets = _planned(stored, here, prefix_found, LAYOUTS[target_layout], num_heads, grid, dtype, notes)
    meta = stored.meta if isinstance(stored, PickledFile) else {}
    reader = _Reader(stored, to_pickle=destination.suffix == '.pth')
    write_weights(destination, targets, reader.read, max_shard_bytes, overwrite, meta, progress)
    return Conversion(
        here.name if here else SAME, target_layout, len(targets), sum(t.info.nbytes for t in targets), tuple(notes)
    )


class _Reader:
    """The source's tensors by name; the last one is kept, since several targets in a row may need it."""

    def __init__(self, source: WeightSource, to_pickle: bool) -> None:
        self._read = source.mapped if to_pickle and isinstance(source, PickledFile) else source.read
        self._keeps = not to_pickle
        self._name, self._tensor = None, None

    def read(self, name: str) -> Tensor:
        if not self._keeps:
            return self._read(name)
        if name != self._name:
            self._name = self._tensor = None  # let go of it before the next one is read
            self._tensor, self._name = self._read(name), name
        return self._tensor


def _check_apart(source: Path, destination: Path) -> None:
    """Refuse a destination that is the source, or lies around or inside of it."""
    here = source.parent if source.name.endswith(INDEX) else source
    same = destination.exists() and here.samefile(destination)
    first, second = here.resolve(), destination.resolve()
    if same or first.is_relative_to(second) or second.is_relative_to(first):
        raise CheckpointError(
            f'{destination}: the destination is, holds or lies in the source {source}; choose another'
        )


def _source_layout(stored: WeightSource, wanted: str | None, prefix: str | None) -> tuple[Layout, str]:
    every = find_layouts(stored.infos)
    found = [(lay, p) for lay, p in every if wanted in {None, lay.name} and prefix in {None, p}]
    if len(found) == 1:
        return found[0]
    seen = ', '.join(f'{lay.name} (prefix {p!r})' if p else lay.name for lay, p in every) or 'none'
    what = f'{stored.path}: recognised layouts: {seen}'
    if found:
        raise CheckpointError(f'{what}; choose one with --from and --prefix')
    if wanted:
        # Its signature is incomplete: say what is missing.
        layout, prefix = LAYOUTS[wanted], prefix or ''
        Model(_under(stored, prefix), layout, stored.path)
    raise CheckpointError(
        f'{what}{" under the prefix asked for" if every else ""}. Known are {", ".join(LAYOUTS)}: name one with '
        f'--from and --prefix to see what it lacks, or change the format only, with --to {SAME}. It has '
        f'{shorten(list(stored.infos))}'
    )


def _under(stored: WeightSource, prefix: str) -> dict:
    return {n.removeprefix(prefix): info for n, info in stored.infos.items() if n.startswith(prefix)}


def _planned(
    stored: WeightSource,
    here: Layout,
    prefix: str,
    there: Layout,
    num_heads: int | None,
    grid: tuple[int, int] | None,
    dtype: torch.dtype | None,
    notes: list[str],
) -> list[Target]:
    model = Model(_under(stored, prefix), here, stored.path, num_heads, grid)
    left_out = [n for n in stored.infos if not n.startswith(prefix)] + [prefix + n for n in model.ignored]
    if left_out:
        notes.append(f'left out {len(left_out)} tensors that are not of the backbone: {shorten(left_out)}')
    if here is PARALLEL and any(stored.read(f'{prefix}blocks.{i}.mlp_bias').any() for i in range(model.num_layers)):
        notes.append(
            'mlp_bias is taken as the bias of the MLP, which it is in timm since January 2026. Before, timm added it '
            'in the wrong place, partly to q, k and v (its issue 2653); a model trained with such a version is not '
            'reproduced by any layout here'
        )
    return plan(model, there, prefix, dtype)
