"""The few-shot curve: score over the fraction of the training data, one line for each backbone."""

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from . import published
from .table import CellResult, by_row, fraction_name, main_scores, mean_and_std, published_place, values_of

MARKERS = 'osD^vP*X'
GREYS = ('#555555', '#777777', '#999999', '#bbbbbb')


def draw_curve(cells: Sequence[CellResult]) -> bytes:
    """``curve.png``: means with standard deviations over the seeds; what others published dashed and grey.

    Published results stand in the same axes where they are of the same data set, else in axes of their own.
    """
    beside = published_place(cells) == 'beside'
    figure = Figure(figsize=(12 if beside else 8, 5), dpi=150, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if beside else 1, squeeze=False)[0]
    plot_cells(axes[0], cells)
    if beside:
        axes[0].set_title('measured here')
        plot_published(axes[1])
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', metadata={'Software': None})
    return buffer.getvalue()


def plot_cells(axes: Axes, cells: Sequence[CellResult]) -> None:
    """The curves of some cells, with the published ones among them where they are of the same data set."""
    score, (title, better) = next(iter(main_scores(cells).items()))
    for n, (backbone, row) in enumerate(by_row(cells).items()):
        found = {fraction: mean_and_std(v) for fraction, at in row.items() if (v := values_of(at, score))}
        if found:
            means, deviations = zip(*found.values(), strict=True)
            deviations = [std or 0.0 for std in deviations]
            style = dict(color=f'C{n}', marker=MARKERS[n % len(MARKERS)], linestyle='-' if len(found) > 1 else 'none')
            axes.errorbar(_places(found), means, yerr=deviations, label=backbone, capsize=4, linewidth=2, **style)
    ticks = {cell.fraction: f'{fraction_name(cell.fraction)}\n{cell.train_images} images' for cell in cells}
    if published_place(cells) == 'among':
        _plot_rows(axes)
        ticks = {fraction: fraction_name(fraction) for fraction in published.FRACTIONS} | ticks
    _finish(axes, ticks, title if better == 'higher' else f'{title}, lower is better')


def plot_published(axes: Axes) -> None:
    """The published curves alone."""
    _plot_rows(axes)
    axes.set_title(f'published by others, another data set\n({published.CONDITIONS})', fontsize=10)
    _finish(axes, {fraction: fraction_name(fraction) for fraction in published.FRACTIONS}, 'mIoU (%)')


def _plot_rows(axes: Axes) -> None:
    for (name, row), grey, marker in zip(published.ROWS.items(), GREYS, MARKERS, strict=False):
        style = dict(color=grey, marker=marker, fillstyle='none', label=f'{name} (published)')
        axes.plot(_places(row), list(row.values()), '--', **style)


def _places(fractions: Iterable[str]) -> list[float]:
    return [float(Fraction(fraction)) for fraction in fractions]


def _finish(axes: Axes, ticks: dict[str, str], title: str) -> None:
    """Scales, a tick with its text for each fraction, title, grid and legend."""
    ticks = dict(sorted(ticks.items(), key=lambda tick: Fraction(tick[0])))
    axes.set_xscale('log', base=2)
    axes.set_xticks(_places(ticks), list(ticks.values()), fontsize=9)
    axes.minorticks_off()
    axes.set_xlabel('share of the training data')
    axes.set_ylabel(title)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc='best', fontsize=9)
