"""The few-shot table in the HTML page: tables, curve, and what each cell's run has left."""

from pathlib import Path

from ..evaluation.report import Section, Table, group_tables, loss_figures, runs_section, svg, version_tables
from ..evaluation.runs import read_run
from . import table
from .cells import TABLE
from .curve import plot_cells, plot_published


def section(folder: Path) -> Section:
    """What the page shows of a folder: of tools/fewshot.py, or one with single runs.

    Raises:
        UserError: no such folder, no run in it, or a file in it that cannot be read.
    """
    return _few_shot_section(folder) if (folder / TABLE).is_file() else runs_section(folder)


def _few_shot_section(folder: Path) -> Section:
    cells = table.from_csv(folder / TABLE)
    section = Section(
        title=f'Few-shot results: {", ".join(cells[0].protocol.split(" ")[:2])}',
        notes=[f'{cells[0].protocol}, in {folder.resolve().name}', table.seeds_note(cells)],
        missing=table.missing_lines(cells),
        tables=[
            Table(f'{title}, {better} is better', table.table_rows(cells, score))
            for score, (title, better) in table.main_scores(cells).items()
        ],
        figures=[svg(lambda axes: plot_cells(axes, cells))],
    )
    place = table.published_place(cells)
    if place:
        note = table.published_note(cells)
        section.tables.append(Table('Published results', table.published_rows(), note=note))
    if place == 'beside':
        section.figures.append(svg(plot_published))
    if table.values_of(cells, table.LOSS):
        section.tables.append(Table('Training loss at the end', table.table_rows(cells, table.LOSS)))
    runs = {cell.folder: run for cell in cells if (run := read_run(folder / cell.folder))}
    names = {fraction: table.fraction_name(fraction) for fraction in table.fractions_of(cells)}
    titles = {cell.folder: f'{cell.backbone} {names[cell.fraction]} seed {cell.seed}' for cell in cells}
    section.versions = version_tables([(titles[place], run) for place, run in runs.items()])
    for backbone, row in table.by_row(cells).items():
        own = [(cell, runs[cell.folder]) for at in row.values() for cell in at if cell.folder in runs]
        columns = {names[fraction]: [run.scores for cell, run in own if cell.fraction == fraction] for fraction in row}
        section.group_tables += group_tables(f'{backbone}, mean over seeds', columns)
        section.losses += loss_figures(
            backbone, [(names[cell.fraction], run) for cell, run in own], list(names.values())
        )
        first = min((cell.seed for cell, _ in own), default=None)
        section.examples += [
            (f'{backbone}, {names[cell.fraction]}, seed {first}', run, cell.fraction == own[-1][0].fraction)
            for cell, run in own
            if cell.seed == first
        ]
        for cell, run in own[-1:]:
            title = f'{backbone}, {names[cell.fraction]}, seed {cell.seed}'
            section.configs.append((f'{title}; the other cells: their fraction, iterations and seed', run.config))
    return section
