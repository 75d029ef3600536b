"""The few-shot curve: score over the fraction of the training data, one line a backbone."""

import io
from collections.abc import Sequence
from fractions import Fraction

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from . import published
from .table import CellResult, fractions_of, main_scores, mean_and_std, on_published_data, published_rows, scores_at

MARKERS = 'osD^vP*X'
GREYS = ('#555555', '#777777', '#999999', '#bbbbbb')


def draw_curve(cells: Sequence[CellResult], dpi: int = 150) -> bytes:
    """``curve.png``: means with standard deviations over the seeds; what others published dashed and grey.

    Published results stand in the same axes where they are of the same data set, else in axes of their own.

    Args:
        cells: at least one.
        dpi: dots per inch of the picture.

    Returns:
        A PNG file's bytes.
    """
    beside = published_beside(cells)
    figure = Figure(figsize=(12 if beside else 8, 5), dpi=dpi, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if beside else 1, squeeze=False)[0]
    plot_cells(axes[0], cells)
    if beside:
        axes[0].set_title('measured here')
        plot_published(axes[1])
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', metadata={'Software': None})
    return buffer.getvalue()


def published_beside(cells: Sequence[CellResult]) -> bool:
    """Whether there are published results, but of another data set."""
    return bool(published_rows(cells)) and not on_published_data(cells)


def plot_cells(axes: Axes, cells: Sequence[CellResult]) -> None:
    """The curves of some cells, with the published ones among them where they are of the same data set."""
    _draw_ours(axes, cells)
    fractions = fractions_of(cells)
    if published_rows(cells) and not published_beside(cells):
        _draw_published(axes)
        fractions = sorted({*fractions, *next(iter(published.ROWS.values()))}, key=Fraction)
    title, better = next(iter(main_scores(cells).values()))
    images = {cell.fraction: cell.train_images for cell in cells}
    _finish(axes, fractions, images, title if better == 'higher' else f'{title}, lower is better')


def plot_published(axes: Axes) -> None:
    """The published curves alone."""
    _draw_published(axes)
    axes.set_title(f'published by others, another data set\n({published.CONDITIONS})', fontsize=10)
    _finish(axes, list(next(iter(published.ROWS.values()))), {}, 'mIoU (%)')


def _draw_ours(axes: Axes, cells: Sequence[CellResult]) -> None:
    score = next(iter(main_scores(cells)))
    for n, backbone in enumerate(dict.fromkeys(cell.backbone for cell in cells)):
        points = []
        for fraction in fractions_of(cells):
            values = scores_at(cells, backbone, fraction, score)
            if values:
                mean, std = mean_and_std(values)
                points.append((float(Fraction(fraction)), mean, std or 0.0))
        if points:
            axes.errorbar(
                *zip(*((x, mean) for x, mean, _ in points), strict=True),
                yerr=[std for *_, std in points],
                label=backbone,
                marker=MARKERS[n % len(MARKERS)],
                capsize=4,
                linewidth=2,
            )


def _draw_published(axes: Axes) -> None:
    for (name, row), grey, marker in zip(published.ROWS.items(), GREYS, MARKERS, strict=False):
        x = [float(Fraction(fraction)) for fraction in row]
        axes.plot(
            x, list(row.values()), '--', color=grey, marker=marker, fillstyle='none', label=f'{name} (published)'
        )


def _finish(axes: Axes, fractions: list[str], images: dict[str, int], title: str) -> None:
    axes.set_xscale('log', base=2)
    axes.set_xticks(
        [float(Fraction(fraction)) for fraction in fractions],
        [f'{fraction}\n{images[fraction]} images' if fraction in images else fraction for fraction in fractions],
        fontsize=9,
    )
    axes.minorticks_off()
    axes.set_xlabel('share of the training data')
    axes.set_ylabel(title)
    axes.grid(alpha=0.3)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(loc='best', fontsize=9)
