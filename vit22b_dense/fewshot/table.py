"""The few-shot table: scores by backbone and fraction, mean and standard deviation over seeds."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path

from ..errors import UserError
from ..evaluation.companions import AVERAGE_TEXT, custom_average
from . import published

# Scores that get a table of their own, the main one first: title, and which way is better.
SEGMENTATION = {'mIoU': ('mIoU (%)', 'higher'), 'aAcc': ('pixel accuracy (%)', 'higher')}
DEPTH = {
    'abs_rel': ('abs_rel', 'lower'),
    'rmse': ('rmse (m)', 'lower'),
    'delta_1.25': ('delta_1.25', 'higher'),
}
# The constant answer's score beside the main one.
CONSTANT = {'mIoU': ('majority/mIoU', 'Majority class'), 'abs_rel': ('mean_depth/abs_rel', 'Mean depth')}
# The score of the ground truth itself at the resolution of the tokens.
GRID = {'mIoU': 'grid/mIoU', 'abs_rel': 'grid/abs_rel'}
# The training loss at the end: no score of the test, but it stands among them in table.csv.
LOSS = 'train/loss'


@dataclass(frozen=True)
class CellResult:
    """One cell of the table, a backbone on a fraction with a seed: a line of ``table.csv``."""

    backbone: str  # name of its row
    fraction: str  # such as '1/16'
    seed: int  # of the run and of the subset
    train_images: int  # in the subset
    iterations: int  # of training
    status: str  # 'finished', or why there are no scores
    data_set: str  # the test data set's type, with its number of classes where it is read with others than its own
    subset_digest: str  # fingerprint of the training images, see `subset.digest`
    folder: str  # of its run, relative to the table's
    protocol: str  # what all cells of a table have in common: config, regime, overrides
    test_data: str = ''  # fingerprint of the test images and labels, see `data_digest`
    deviations: str = ''  # what differs from the published protocol, separated by semicolons; see `published`
    lr: str = ''  # the learning rate that was chosen on held-out training images; empty where none was searched
    scores: dict[str, float] = field(default_factory=dict)  # all of the test, and `LOSS`; empty where there are none


FIXED = {column.name: column.type for column in fields(CellResult) if column.name != 'scores'}  # of every table.csv
REQUIRED = FIXED.keys() - {'deviations', 'lr', 'test_data'}  # which tables of before do not have


def main_scores(cells: Sequence[CellResult]) -> dict[str, tuple[str, str]]:
    """The scores to show: `DEPTH` where a cell has a score of depth, else `SEGMENTATION`."""
    return DEPTH if any(next(iter(DEPTH)) in cell.scores for cell in cells) else SEGMENTATION


def fraction_name(fraction: str) -> str:
    """How a fraction is shown: ``'1'``, the whole training data, as ``'all'``."""
    return 'all' if Fraction(fraction) == 1 else fraction


def fractions_of(cells: Sequence[CellResult]) -> list[str]:
    """The fractions of some cells, smallest first."""
    return sorted({cell.fraction for cell in cells}, key=Fraction)


def by_row(cells: Sequence[CellResult]) -> dict[str, dict[str, list[CellResult]]]:
    """The cells of each backbone and fraction, in the order of the cells; each backbone has all fractions."""
    rows = {cell.backbone: {fraction: [] for fraction in fractions_of(cells)} for cell in cells}
    for cell in cells:
        rows[cell.backbone][cell.fraction].append(cell)
    return rows


def values_of(cells: Sequence[CellResult], score: str) -> list[float]:
    """The values of a score, of the cells that have it."""
    return [cell.scores[score] for cell in cells if score in cell.scores]


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (over n - 1); None for the latter where there is one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def shown(values: Sequence[float], score: str) -> str:
    """A score's mean over the seeds as text, with the deviation where there are several."""
    mean, std = mean_and_std(values)
    digits = 2 if score.split('/')[-1] in SEGMENTATION else 3
    return f'{mean:.{digits}f}' + (f' ± {std:.{digits}f}' if std is not None else '')


def table_rows(cells: Sequence[CellResult], score: str) -> list[list[str]]:
    """One score's table: a header, and a row for each backbone in the order of the cells."""
    header = ['backbone']
    for fraction in fractions_of(cells):
        images = {cell.train_images for cell in cells if cell.fraction == fraction}
        header.append(
            f'{fraction_name(fraction)} ({" to ".join(str(n) for n in sorted({min(images), max(images)}))} images)'
        )
    return [header, *([name, *(_entry(at, score) for at in row.values())] for name, row in by_row(cells).items())]


def _entry(cells: Sequence[CellResult], score: str) -> str:
    values = values_of(cells, score)
    missing = '; '.join(sorted({cell.status for cell in cells if not cell.scores}))
    if not values:
        return missing or '–'
    return shown(values, score) + (f' ({len(values)} of {len(cells)} seeds; {missing})' if missing else '')


def rate_rows(cells: Sequence[CellResult]) -> list[list[str]]:
    """The learning rates that were chosen, seed by seed: a header, and a row for each backbone; empty without any."""
    if not any(cell.lr for cell in cells):
        return []
    rows = [
        [name, *(', '.join(cell.lr or '–' for cell in at) for at in row.values())]
        for name, row in by_row(cells).items()
    ]
    return [['learning rates', *map(fraction_name, fractions_of(cells))], *rows]


def published_place(cells: Sequence[CellResult]) -> str | None:
    """Where published results stand: ``'among'`` ours of the same data, ``'beside'`` those of others, or nowhere."""
    if main_scores(cells) is DEPTH:
        return None
    return 'among' if {cell.data_set for cell in cells} == {published.DATA_SET} else 'beside'


def published_rows() -> list[list[str]]:
    """The published table: a header and its rows."""
    rows = [[f'{name} (published)', *(f'{v:.1f}' for v in row.values())] for name, row in published.ROWS.items()]
    return [['published', *map(fraction_name, published.FRACTIONS)], *rows]


def published_note(cells: Sequence[CellResult]) -> str:
    """Where the published rows come from, and whether they may be compared."""
    remark = (
        'compare only runs of the same regime and decoder'
        if published_place(cells) == 'among'
        else 'another data set than the table above: only the shape of the curves can be compared, not the level'
    )
    text = f'Published by others, not measured here: {published.CONDITIONS} ({published.SOURCE}); {remark}.'
    different = list(dict.fromkeys(part for cell in cells for part in cell.deviations.split('; ') if part))
    return f'{text} The runs here differ from that protocol: {"; ".join(different)}.' if different else text


def seeds_note(cells: Sequence[CellResult]) -> str:
    """What the numbers are: seeds, and the scores of the constant answer and of the labels at the token grid."""
    seeds = sorted({cell.seed for cell in cells})
    text = f'Seed{"s" if len(seeds) > 1 else ""} {", ".join(map(str, seeds))}'
    if len(seeds) > 1:
        text += '; mean ± sample standard deviation over them (each seed: another subset, order and start)'
    main = next(iter(main_scores(cells)))
    constant, title = CONSTANT[main]
    if values := values_of(cells, constant):
        text += f'. {title} everywhere: {shown(values[:1], constant)}'
    if len(data := {cell.test_data for cell in cells if cell.test_data}) > 1:
        text += f'. NOT COMPARABLE: cells were tested on different data ({", ".join(sorted(data))} in table.csv)'
    if averages := {AVERAGE_TEXT[custom_average(cell.scores)] for cell in cells if 'abs_rel' in cell.scores}:
        text += f'. Scores: {", or ".join(sorted(averages))}'
    grids: dict[str, list[str]] = {}  # by score, the backbones: their patches may differ
    for cell in cells:
        if values := values_of([cell], GRID[main]):
            names = grids.setdefault(shown(values, GRID[main]), [])
            names += [cell.backbone] if cell.backbone not in names else []
    if grids:
        parts = [value if len(grids) == 1 else f'{value} ({", ".join(names)})' for value, names in grids.items()]
        text += f'. The labels themselves at the token grid: {", ".join(parts)}'
    return f'{text}.'


def missing_lines(cells: Sequence[CellResult]) -> list[str]:
    """Which cells have no scores, by backbone and reason."""
    groups: dict[str, list[str]] = {}
    for cell in cells:
        if cell.status != 'finished':
            which = f'{fraction_name(cell.fraction)} seed {cell.seed}'
            groups.setdefault(f'{cell.backbone}, {cell.status}', []).append(which)
    return [f'{reason}: {", ".join(which)}' for reason, which in groups.items()]


def markdown(cells: Sequence[CellResult], title: str) -> str:
    """``table.md``: a heading, a table for each main score, and the published rows; of at least one cell."""
    parts = [f'# {title}', seeds_note(cells)]
    for score, (name, better) in main_scores(cells).items():
        parts += [f'## {name}, {better} is better', _markdown_table(table_rows(cells, score))]
        if score == 'mIoU':
            parts += [published_note(cells), _markdown_table(published_rows())]
    if rates := rate_rows(cells):
        parts += ['## Learning rates, chosen on held-out training images, by seed', _markdown_table(rates)]
    if values_of(cells, LOSS):
        parts += ['## Training loss at the end', _markdown_table(table_rows(cells, LOSS))]
    return '\n\n'.join(parts) + '\n'


def _markdown_table(rows: list[list[str]]) -> str:
    lines = ['| ' + ' | '.join(cell.replace('|', '\\|') for cell in row) + ' |' for row in rows]
    return '\n'.join([lines[0], '|---' * len(rows[0]) + '|', *lines[1:]])


def to_csv(cells: Sequence[CellResult]) -> str:
    """``table.csv``: a line for each cell with every score."""
    names = dict.fromkeys(name for cell in cells for name in cell.scores)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*FIXED, *names], lineterminator='\n')
    writer.writeheader()
    writer.writerows({key: getattr(cell, key) for key in FIXED} | cell.scores for cell in cells)
    return buffer.getvalue()


def from_csv(path: str | Path) -> list[CellResult]:
    """The cells of a ``table.csv``.

    Raises:
        UserError: the file cannot be read, or does not have its columns.
    """
    cells = []
    try:
        if not Path(path).is_file():
            raise ValueError('no regular file')
        with open(path, newline='', encoding='utf-8') as file:
            for line in csv.DictReader(file):
                if absent := REQUIRED - line.keys():
                    raise ValueError(f'no column {min(absent)}')
                fixed = {key: kind(line.pop(key, '')) for key, kind in FIXED.items()}
                Fraction(fixed['fraction'])
                scores = {name: float(value) for name, value in line.items() if value}
                cells.append(CellResult(**fixed, scores=scores))
        if not cells:
            raise ValueError('it has no rows')
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(
            f'{path}: not a table of tools/fewshot.py, or damaged ({error!r}); its columns are {", ".join(FIXED)} and '
            'scores. Remove it and rebuild it with tools/fewshot.py --collect'
        ) from error
    return cells
