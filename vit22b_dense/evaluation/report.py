"""An HTML report of runs: tables, curves, losses, classes or distances, pictures, configurations."""

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from ..errors import UserError
from .companions import AVERAGE_TEXT, custom_average
from .depth_metric import SCORES
from .runs import RunRecord, find_runs

PICTURE_WIDTH, PICTURE_QUALITY = 1000, 82
# group of a score's name: a class, or a range of distances or a camera and the average
GROUP = re.compile(r'IoU/(.+)|(.+)/(pixel|image)/abs_rel')
NamedRuns = Sequence[tuple[str, RunRecord]]


@dataclass(frozen=True)
class Table:
    """A table of the page; a shade, a share in [0, 1] or None, is a bar behind its entry."""

    title: str
    rows: list[list[str]]  # header and rows
    shades: list[list[float | None]] | None = None  # of the rows below the header
    note: str = ''  # below the table


@dataclass
class Section:
    """What the page shows of a folder, from top to bottom; what is empty is left out."""

    title: str
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # runs without scores
    tables: list[Table] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)  # SVG
    group_tables: list[Table] = field(default_factory=list)  # by class or distance
    losses: list[str] = field(default_factory=list)  # SVG
    examples: list[tuple[str, RunRecord, bool]] = field(default_factory=list)  # title, run, shown at once or folded
    versions: list[Table] = field(default_factory=list)
    configs: list[tuple[str, str]] = field(default_factory=list)  # title and text


def group_tables(title: str, columns: dict[str, list[dict[str, float]]]) -> list[Table]:
    """A table of IoU by class, or abs_rel by distance and camera; none where no run has such scores.

    Each column has the scores of one or more runs, and an entry is the mean of those that are numbers. Columns of the
    labels at the token grid follow: one, or one for each column where they differ.
    """
    columns = columns | _grid_columns(columns)
    parts: dict[str, dict[str, list[float]]] = {}  # group, column, values
    for column, runs in columns.items():
        averages = [custom_average(run) for run in runs]
        for average, name, value in ((a, *s) for a, run in zip(averages, runs, strict=True) for s in run.items()):
            if (match := GROUP.fullmatch(name)) and (match[1] or match[3] == average):
                classes = bool(match[1])
                known = parts.setdefault(match[1] or match[2], {})
                if not math.isnan(value):  # as of a class that no image shows
                    known.setdefault(column, []).append(value)
    if not parts:
        return []
    means = {group: {c: sum(v) / len(v) for c, v in values.items()} for group, values in parts.items()}
    top = 100 if classes else max((value for values in means.values() for value in values.values()), default=0) or 1
    text = '{:.1f}' if classes else '{:.3f}'
    rows, shades = [['class, IoU (%)' if classes else 'ground truth, abs_rel', *columns]], []
    for group, values in means.items():
        rows.append([group, *(text.format(values[c]) if c in values else '–' for c in columns)])
        shades.append([None, *(min(values[c] / top, 1) if c in values else None for c in columns)])
    return [Table(title, rows, shades)]


def _grid_columns(columns: dict[str, list[dict[str, float]]]) -> dict[str, list[dict[str, float]]]:
    grids = {
        f'{name}, token grid': [
            {key.removeprefix('grid/'): value for key, value in run.items() if key.startswith('grid/IoU/')}
            for run in runs[:1]
        ]
        for name, runs in columns.items()
    }
    grids = {name: grid for name, grid in grids.items() if any(grid)}
    different = [grid for i, grid in enumerate(grids.values()) if grid not in list(grids.values())[:i]]
    return {'token grid': different[0]} if len(different) == 1 else grids


def svg(draw: Callable[[Axes], None]) -> str:
    """A figure as inline SVG, the same for the same data."""
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'report', 'font.family': 'sans-serif'}):
        figure = Figure(figsize=(4.8, 3.5), layout='constrained')
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format='svg', metadata=dict.fromkeys(('Date', 'Creator', 'Format', 'Type')))
    return buffer.getvalue()[buffer.getvalue().index('<svg') :]


def loss_figures(title: str, runs: NamedRuns, names: Sequence[str]) -> list[str]:
    """One figure of losses over iterations; none where nothing was logged.

    Runs of one name have one colour; ``names`` gives the colours and the order of the legend, in every figure.
    """
    losses: dict[str, list] = {}
    for name, run in runs:
        if curve := run.losses:
            losses.setdefault(name, []).append(curve)

    def draw(axes: Axes) -> None:
        for n, name in enumerate(names):
            for curve in (curves := losses.get(name, [])):
                label = name if curve is curves[0] else None
                marker = None if len(curve) > 1 else 'o'  # one point is no line
                axes.plot(*zip(*curve, strict=True), f'C{n}', label=label, lw=1.2, marker=marker)
        axes.set(title=title, xlabel='iteration', ylabel='training loss')
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)

    return [svg(draw)] if losses else []


def picture_uri(run: RunRecord, example: dict) -> str:
    """The picture of one of a run's examples as a JPEG inside the page."""
    path = run.record_folder / 'examples' / example['picture']
    try:
        with Image.open(path) as image:
            image = image.convert('RGB')
    except OSError as error:
        raise UserError(f'{path}: the picture cannot be read ({error}); run tools/test.py again') from error
    image.thumbnail((PICTURE_WIDTH, 10**6), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=PICTURE_QUALITY, optimize=True)
    return f'data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}'


def version_tables(runs: NamedRuns) -> list[Table]:
    """The versions that the tests ran with; one table where all are the same."""
    found: dict[tuple, list[str]] = {}
    for name, run in runs:
        if run.record.get('versions'):
            found.setdefault(tuple(run.record['versions'].items()), []).append(name)
    return [
        Table('' if len(found) == 1 else ', '.join(names), [['package', 'version'], *map(list, items)])
        for items, names in found.items()
    ]


def _score_table(runs: NamedRuns, depth: bool) -> Table:
    """Scores of all images together, the constant answer's and the token grid's, a row for each run."""
    constants = (
        'majority/mIoU', 'grid/mIoU', 'mean_depth/abs_rel', 'mean_depth/rmse', 'grid/abs_rel', 'grid/rmse',
    )  # fmt: skip
    names = dict.fromkeys(name for _, run in runs for name in run.scores)
    shown = [n for n in names if n in constants or (n in SCORES if depth else '/' not in n)]
    rows = [
        [name, *(f'{run.scores[score]:.4g}' if score in run.scores else '–' for score in shown)] for name, run in runs
    ]
    head = ['run', *shown]
    losses = [run.record.get('train_loss') for _, run in runs]
    if any(loss is not None for loss in losses):
        head.append('training loss at the end')
        rows = [[*row, '–' if loss is None else f'{loss:.4g}'] for row, loss in zip(rows, losses, strict=True)]
    averages = {custom_average(run.scores): None for _, run in runs} if depth else ()
    notes = [', or '.join(AVERAGE_TEXT[a] for a in averages)] if averages else []
    data = [run.record.get('data') for _, run in runs]
    if len({digest for digest in data if digest}) > 1:
        head, rows = [*head, 'data'], [[*row, digest or '–'] for row, digest in zip(rows, data, strict=True)]
        notes.append('not comparable: runs with another fingerprint of the data were tested on other images or labels')
    return Table('Scores', [head, *rows], note='; '.join(notes))


def runs_section(folder: Path) -> Section:
    """A folder of single runs.

    Raises:
        UserError: no such folder, no run in it, or a file in it that cannot be read.
    """
    title, runs = folder.resolve().name, []
    for run in find_runs(folder):
        place = run.folder if run.folder.is_relative_to(folder) else run.record_folder
        runs.append((title if place == folder else place.relative_to(folder).as_posix(), run))
    section = Section(
        title=f'Runs in {title}',
        missing=[f'{name}: not tested' for name, run in runs if not run.record],
        losses=loss_figures('', runs, [name for name, _ in runs]),
        examples=[(name, run, len(runs) == 1) for name, run in runs],
        versions=version_tables(runs),
        configs=[(name, run.config) for name, run in runs if run.config],
    )
    for depth in (False, True):  # segmentation and depth have no score in common
        some = [(name, run) for name, run in runs if run.record and ('abs_rel' in run.scores) is depth]
        section.tables += [_score_table(some, depth)] if some else []
        section.group_tables += group_tables('', {name: [run.scores] for name, run in some})
    return section


def render(sections: Sequence[Section], title: str | None = None) -> str:
    """The page: self-contained HTML that needs no network; without a title it has those of its sections."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('vit22b_dense.evaluation', '.'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template('report.html.j2')
    title = title or '; '.join(section.title for section in sections)
    return template.render(title=title, sections=sections, picture_uri=picture_uri)
