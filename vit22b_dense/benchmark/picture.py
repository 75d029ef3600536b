"""The picture of a benchmark: how many times as fast as the first case of its group each case is."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .timing import Row


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write bars with their spread, a panel for each group, as PNG or in another format by the file's ending."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.section, row.title), []).append(row)
    heights = [len(group) + 1.5 for group in groups.values()]
    figure = Figure(figsize=(8, 0.28 * sum(heights)), layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, ((section, title), group) in zip(panels, groups.items(), strict=True):
        speeds = [row.speed for row in group]
        spread = [[r.speed - r.speed_low for r in group], [r.speed_high - r.speed for r in group]]
        axes.barh([row.case for row in group], speeds, xerr=spread, color='C0', ecolor='0.4')
        axes.axvline(1, color='0.4', lw=0.8)
        axes.invert_yaxis()
        axes.set_title(f'{section}: {title} (times as fast)', fontsize=9, loc='left')
        axes.tick_params(labelsize=8)
    figure.savefig(path)
