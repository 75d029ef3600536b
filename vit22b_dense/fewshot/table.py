"""The few-shot table: scores by backbone and fraction, mean and standard deviation over seeds."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path

from ..errors import UserError
from . import published

# Scores that get a table of their own, the main one first: title, and which way is better.
SEGMENTATION = {'mIoU': ('mIoU (%)', 'higher'), 'aAcc': ('pixel accuracy (%)', 'higher')}
DEPTH = {
    'pixel/abs_rel': ('abs_rel', 'lower'),
    'pixel/rmse': ('rmse (m)', 'lower'),
    'pixel/delta_1.25': ('delta_1.25', 'higher'),
}
# The constant answer's score beside the main one.
CONSTANT = {'mIoU': ('majority/mIoU', 'majority class'), 'pixel/abs_rel': ('mean_depth/abs_rel', 'mean depth')}


@dataclass(frozen=True)
class CellResult:
    """One cell of the table: a backbone on a fraction with a seed.

    Attributes:
        backbone: name of its row.
        fraction: such as ``'1/16'``.
        seed: of the run and of the subset.
        train_images: in the subset.
        iterations: of training.
        status: ``'finished'``, or why there are no scores.
        data_set: the test data set's type, with its number of classes where it is read with others than its own.
        subset_digest: fingerprint of the training images, see `few_shot.digest`.
        folder: of its run, relative to the table's.
        protocol: what all cells of a table have in common: config, regime, overrides.
        scores: all scores of the test by name; empty where there are none.
    """

    backbone: str
    fraction: str
    seed: int
    train_images: int
    iterations: int
    status: str
    data_set: str
    subset_digest: str
    folder: str
    protocol: str
    scores: dict[str, float] = field(default_factory=dict)


FIXED = tuple(column.name for column in fields(CellResult) if column.name != 'scores')  # columns of every table.csv


def main_scores(cells: Sequence[CellResult]) -> dict[str, tuple[str, str]]:
    """The scores to show: `DEPTH` where a cell has a score of depth, else `SEGMENTATION`."""
    return DEPTH if any(next(iter(DEPTH)) in cell.scores for cell in cells) else SEGMENTATION


def fractions_of(cells: Sequence[CellResult]) -> list[str]:
    """The fractions of some cells, smallest first."""
    return sorted({cell.fraction for cell in cells}, key=Fraction)


def scores_at(cells: Sequence[CellResult], backbone: str, fraction: str, score: str) -> list[float]:
    """A score's values over the seeds, of finished cells."""
    chosen = [cell for cell in cells if (cell.backbone, cell.fraction) == (backbone, fraction)]
    return [cell.scores[score] for cell in chosen if score in cell.scores]


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (over n - 1); None for the latter where there is one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def shown(values: Sequence[float], score: str) -> str:
    """A score's mean over the seeds as text, with the deviation where there are several."""
    mean, std = mean_and_std(values)
    digits = 2 if score.split('/')[-1] in SEGMENTATION else 3
    return f'{mean:.{digits}f}' + (f' ± {std:.{digits}f}' if std is not None else '')


def _entry(cells: Sequence[CellResult], backbone: str, fraction: str, score: str) -> str:
    here = [cell for cell in cells if (cell.backbone, cell.fraction) == (backbone, fraction)]
    values = scores_at(here, backbone, fraction, score)
    without = sorted({cell.status for cell in here if not cell.scores})
    missing = '; '.join(without)
    if not values:
        return missing or '–'
    text = shown(values, score)
    return f'{text} ({len(values)} of {len(here)} seeds; {missing})' if missing else text


def table_rows(cells: Sequence[CellResult], score: str) -> list[list[str]]:
    """One score's table: a header, and a row for each backbone in the order of the cells."""
    fractions = fractions_of(cells)
    header = ['backbone']
    for fraction in fractions:
        images = sorted({cell.train_images for cell in cells if cell.fraction == fraction})
        header.append(f'{fraction} ({" to ".join(str(n) for n in dict.fromkeys([images[0], images[-1]]))} images)')
    backbones = dict.fromkeys(cell.backbone for cell in cells)
    return [header, *([name, *(_entry(cells, name, f, score) for f in fractions)] for name in backbones)]


def published_rows(cells: Sequence[CellResult]) -> list[list[str]]:
    """The published table, a header and its rows; empty for depth, where nothing was published."""
    if main_scores(cells) is not SEGMENTATION:
        return []
    fractions = list(next(iter(published.ROWS.values())))
    return [
        ['published', *fractions],
        *([f'{name} (published)', *(f'{row[f]:.1f}' for f in fractions)] for name, row in published.ROWS.items()),
    ]


def on_published_data(cells: Sequence[CellResult]) -> bool:
    """Whether the published rows are of the data set that the cells are tested on."""
    return {cell.data_set for cell in cells} == {published.DATA_SET}


def published_note(cells: Sequence[CellResult]) -> str:
    """Where the published rows come from, and whether they may be compared."""
    remark = (
        'compare only runs of the same regime and decoder'
        if on_published_data(cells)
        else 'another data set than the table above: only the shape of the curves can be compared, not the level'
    )
    return f'Published by others, not measured here: {published.CONDITIONS} ({published.SOURCE}); {remark}.'


def seeds_note(cells: Sequence[CellResult]) -> str:
    """What the numbers are: seeds, and the constant answer's score."""
    seeds = sorted({cell.seed for cell in cells})
    text = f'Seed{"s" if len(seeds) > 1 else ""} {", ".join(map(str, seeds))}'
    if len(seeds) > 1:
        text += '; mean ± sample standard deviation over them (each seed: another subset, order and start)'
    constant, title = CONSTANT[next(iter(main_scores(cells)))]
    value = next((cell.scores[constant] for cell in cells if constant in cell.scores), None)
    if value is not None:
        text += f'. {title[0].upper()}{title[1:]} everywhere: {shown([value], constant)}'
    return f'{text}.'


def missing_lines(cells: Sequence[CellResult]) -> list[str]:
    """Which cells have no scores, by backbone and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.status != 'finished':
            groups.setdefault((cell.backbone, cell.status), []).append(f'{cell.fraction} seed {cell.seed}')
    return [f'{backbone}, {status}: {", ".join(which)}' for (backbone, status), which in groups.items()]


def _markdown(rows: list[list[str]]) -> str:
    lines = ['| ' + ' | '.join(cell.replace('|', '\\|') for cell in row) + ' |' for row in rows]
    return '\n'.join([lines[0], '|---' * len(rows[0]) + '|', *lines[1:]])


def markdown(cells: Sequence[CellResult], title: str) -> str:
    """``table.md``: a table for each main score, and the published rows.

    Args:
        cells: at least one.
        title: heading.
    """
    parts = [f'# {title}', seeds_note(cells)]
    for score, (name, better) in main_scores(cells).items():
        parts += [f'## {name}, {better} is better', _markdown(table_rows(cells, score))]
        if rows := published_rows(cells) if score == 'mIoU' else []:
            parts += [published_note(cells), _markdown(rows)]
    return '\n\n'.join(parts) + '\n'


def to_csv(cells: Sequence[CellResult]) -> str:
    """``table.csv``: a line for each cell with every score."""
    names = list(dict.fromkeys(name for cell in cells for name in cell.scores))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator='\n')
    writer.writerow([*FIXED, *names])
    for cell in cells:
        writer.writerow([*(getattr(cell, key) for key in FIXED), *(cell.scores.get(name, '') for name in names)])
    return buffer.getvalue()


def from_csv(path: str | Path) -> list[CellResult]:
    """The cells of a ``table.csv``.

    Raises:
        UserError: the file does not have its columns.
    """
    with open(path, newline='', encoding='utf-8') as file:
        lines = list(csv.DictReader(file))
    if not lines or not set(FIXED) <= set(lines[0]):
        raise UserError(f'{path}: not a table of tools/fewshot.py (columns {", ".join(FIXED)} and scores)')
    numbers = ('seed', 'train_images', 'iterations')
    cells = []
    for line in lines:
        fixed = {key: int(line.pop(key)) if key in numbers else line.pop(key) for key in FIXED}
        cells.append(CellResult(**fixed, scores={name: float(value) for name, value in line.items() if value}))
    return cells
