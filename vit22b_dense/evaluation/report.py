"""One HTML page of what runs have given: tables, curves, losses, classes or distances, pictures, configurations."""

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import jinja2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from ..errors import UserError
from ..fewshot.curve import plot_cells, plot_published, published_beside
from ..fewshot.table import (
    CellResult,
    fractions_of,
    from_csv,
    main_scores,
    missing_lines,
    published_note,
    published_rows,
    seeds_note,
    table_rows,
)
from .runs import RunRecord, find_runs, read_run

PICTURE_WIDTH, PICTURE_QUALITY = 1000, 82
# group of a score's name: a class, or a range of distances or a camera
GROUPS = (re.compile(r'IoU/(?P<group>.+)'), re.compile(r'(?P<group>.+)/pixel/abs_rel'))


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        title: above it. rows: header and rows, as text.
        shades: for each entry of the rows below the header a share in [0, 1], or None: drawn as a bar behind it.
        note: below it.
    """

    title: str
    rows: list[list[str]]
    shades: list[list[float | None]]
    note: str = ''


def plain(title: str, rows: list[list[str]], note: str = '') -> Table:
    """A table without bars."""
    return Table(title, rows, [[None] * len(row) for row in rows[1:]], note)


def groups_of(scores: dict[str, float]) -> dict[str, float]:
    """The IoU of each class, or abs_rel of each range of distances and each camera."""
    found = {}
    for name, value in scores.items():
        for pattern in GROUPS:
            if match := pattern.fullmatch(name):
                found[match['group']] = value
    return found


def group_table(title: str, columns: dict[str, list[dict[str, float]]]) -> Table | None:
    """Classes or distances down, fractions or runs across; each entry the mean of the scores given for it.

    Args:
        title: above it.
        columns: for each column the scores of one or more runs.

    Returns:
        None where no run has such scores.
    """
    parts = {name: [groups_of(scores) for scores in runs] for name, runs in columns.items()}
    names = list(dict.fromkeys(group for runs in parts.values() for run in runs for group in run))
    if not names:
        return None
    classes = any(name.startswith('IoU/') for runs in columns.values() for run in runs for name in run)
    rows, shades = [['class, IoU (%)' if classes else 'ground truth, abs_rel', *columns]], []
    means = {}
    for column, runs in parts.items():
        for name in names:
            values = [run[name] for run in runs if name in run]
            means[name, column] = sum(values) / len(values) if values else None
    top = 100 if classes else max((value for value in means.values() if value is not None), default=1) or 1
    for name in names:
        values = [means[name, column] for column in columns]
        rows.append([name, *('–' if v is None else f'{v:.1f}' if classes else f'{v:.3f}' for v in values)])
        shades.append([None, *(None if v is None else min(v / top, 1) for v in values)])
    return Table(title, rows, shades)


def _svg(draw: Callable[[Axes], None], size: tuple[float, float] = (4.8, 3.5)) -> str:
    """A figure as inline SVG, the same for the same data."""
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'report', 'font.family': 'sans-serif'}):
        figure = Figure(figsize=size, layout='constrained')
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format='svg', metadata=dict.fromkeys(('Date', 'Creator', 'Format', 'Type')))
    return buffer.getvalue()[buffer.getvalue().index('<svg') :]


def loss_figure(title: str, runs: Sequence[tuple[str, RunRecord]]) -> str | None:
    """Losses over iterations, runs of one name in one colour; None where nothing was logged."""
    losses = [(name, run.losses) for name, run in runs]
    names = list(dict.fromkeys(name for name, values in losses if values))
    if not names:
        return None

    def draw(axes: Axes) -> None:
        for name, values in losses:
            if values:
                first = name not in axes.get_legend_handles_labels()[1]
                axes.plot(*zip(*values, strict=True), f'C{names.index(name)}', label=name if first else None, lw=1.2)
        axes.set(title=title, xlabel='iteration', ylabel='training loss')
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)

    return _svg(draw)


def _data_uri(path: Path) -> str:
    """A picture as a JPEG inside the page."""
    try:
        with Image.open(path) as image:
            image = image.convert('RGB')
    except OSError as error:
        raise UserError(f'{path}: the picture cannot be read ({error}); run tools/test.py again') from error
    image.thumbnail((PICTURE_WIDTH, 10**6), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=PICTURE_QUALITY, optimize=True)
    return f'data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}'


def strip(title: str, run: RunRecord, shown: bool) -> dict | None:
    """The best, the median and the worst image of a run, for the template; None where there are none.

    Args:
        title: above them.
        run: which.
        shown: at once, not folded away.
    """
    pictures = [
        dict(
            caption=f'{example["rank"]}: {Path(example["image"]).name}, {example["metric"]} {example["score"]:.3g}',
            uri=_data_uri(run.picture(example)),
        )
        for example in run.record.get('examples', [])
    ]
    return dict(title=title, pictures=pictures, open=shown) if pictures else None


def _versions(runs: Sequence[tuple[str, RunRecord]]) -> list[Table]:
    """The versions that the tests ran with; one table where all are the same."""
    found: dict[tuple, list[str]] = {}
    for name, run in runs:
        if run.record.get('versions'):
            found.setdefault(tuple(run.record['versions'].items()), []).append(name)
    return [
        plain('' if len(found) == 1 else ', '.join(names), [['package', 'version'], *map(list, items)])
        for items, names in found.items()
    ]


def _few_shot_section(folder: Path, cells: list[CellResult]) -> dict:
    """A folder of tools/fewshot.py: the table, the curve, and each cell's run."""
    runs = [(cell, run) for cell in cells if (run := read_run(folder / cell.folder)) is not None]
    tables = [
        plain(f'{title}, {better} is better', table_rows(cells, score))
        for score, (title, better) in main_scores(cells).items()
    ]
    if rows := published_rows(cells):
        tables.append(plain('Published results', rows, published_note(cells)))
    figures = [_svg(lambda axes: plot_cells(axes, cells))]
    if published_beside(cells):
        figures.append(_svg(plot_published))
    group_tables, losses, strips, configs = [], [], [], []
    for backbone in dict.fromkeys(cell.backbone for cell in cells):
        own = sorted(
            ((cell, run) for cell, run in runs if cell.backbone == backbone),
            key=lambda pair: Fraction(pair[0].fraction),
        )
        columns = {f: [run.scores for cell, run in own if cell.fraction == f] for f in fractions_of(cells)}
        group_tables.append(group_table(f'{backbone}, mean over seeds', columns))
        losses.append(loss_figure(backbone, [(cell.fraction, run) for cell, run in own]))
        seed = min((cell.seed for cell, _ in own), default=None)
        strips += [
            strip(f'{backbone}, {cell.fraction}, seed {seed}', run, shown=cell.fraction == own[-1][0].fraction)
            for cell, run in own
            if cell.seed == seed
        ]
        for cell, run in own[-1:]:
            title = (
                f'{backbone}, {cell.fraction}, seed {cell.seed}; the other cells: their fraction, iterations and seed'
            )
            configs.append(dict(title=title, text=run.config))
    return dict(
        title=f'Few-shot table, {folder.name}',
        notes=[cells[0].protocol, seeds_note(cells)],
        missing=missing_lines(cells),
        tables=tables,
        figures=figures,
        group_tables=[table for table in group_tables if table],
        losses=[figure for figure in losses if figure],
        strips=[some for some in strips if some],
        configs=configs,
        versions=_versions([(f'{cell.backbone} {cell.fraction} seed {cell.seed}', run) for cell, run in runs]),
    )


def _score_table(named: Sequence[tuple[str, RunRecord]]) -> Table:
    """Scores of all images together and the constant answer's, a row a run."""
    constants = ('majority/mIoU', 'mean_depth/abs_rel', 'mean_depth/rmse')
    names = dict.fromkeys(name for _, run in named for name in run.scores)
    depth = any(run.of_depth for _, run in named)
    shown = [n for n in names if n in constants or (n.startswith('pixel/') if depth else '/' not in n)]
    rows = [[f'{run.scores[name]:.4g}' if name in run.scores else '–' for name in shown] for _, run in named]
    return plain('Scores', [['run', *shown], *([name, *row] for (name, _), row in zip(named, rows, strict=True))])


def _runs_section(folder: Path, runs: list[RunRecord]) -> dict:
    """A folder of single runs."""
    named = []
    for run in runs:
        place = run.folder if run.folder.is_relative_to(folder) else run.record_folder or run.folder
        relative = place.relative_to(folder).as_posix() if place.is_relative_to(folder) else place.name
        named.append((folder.resolve().name if relative == '.' else relative, run))
    # segmentation and depth have no score in common
    kinds = [[(name, run) for name, run in named if run.record and run.of_depth is depth] for depth in (False, True)]
    group_tables = [group_table('', {name: [run.scores] for name, run in kind}) for kind in kinds]
    return dict(
        title=f'Runs, {folder.resolve().name}',
        notes=[],
        missing=[f'{name}: not tested' for name, run in named if not run.record],
        tables=[_score_table(kind) for kind in kinds if kind],
        figures=[],
        group_tables=[table for table in group_tables if table],
        losses=[figure for figure in [loss_figure('', named)] if figure],
        strips=[some for name, run in named if (some := strip(name, run, shown=len(named) == 1))],
        configs=[dict(title=name, text=run.config) for name, run in named if run.config],
        versions=_versions(named),
    )


def section(folder: Path) -> dict:
    """What the template shows of a folder.

    Raises:
        UserError: no such folder, no run in it, or a file in it that cannot be read.
    """
    if (folder / 'table.csv').is_file():
        return _few_shot_section(folder, from_csv(folder / 'table.csv'))
    return _runs_section(folder, find_runs(folder))


def render(folders: Sequence[Path], title: str) -> str:
    """The page: HTML that needs no other file and no network.

    Args:
        folders: work dirs of tools/fewshot.py, tools/train.py or tools/test.py.
        title: of the page.

    Raises:
        UserError: see `section`.
    """
    loader = jinja2.PackageLoader('vit22b_dense.evaluation', '.')
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template('report.html.j2')
    return template.render(title=title, sections=[section(folder) for folder in folders])
