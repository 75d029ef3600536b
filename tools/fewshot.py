#!/usr/bin/env python
"""The few-shot table: train and test backbones on fractions of the training data, with several seeds.

Each cell (backbone, fraction, seed) is trained and tested in its own processes and its own folder. Run the same
command again to continue: finished cells are skipped, interrupted ones resumed, failed ones retried. The command may
run several times at once on one folder, for example once per GPU: each cell is run by only one of them. After each
cell, WORK_DIR/table.md, table.csv (every score of every cell) and curve.png are updated; rows of other backbones that
they already contain are kept.
"""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse
import contextlib
import os
import shlex
import signal
import sys
from pathlib import Path

with contextlib.redirect_stdout(sys.stderr):  # mmseg says what it did not find; a dry run's output is for a scheduler
    from vit22b_dense.engine.config import default_work_dir, find_config
    from vit22b_dense.engine.features.maker import make_features
    from vit22b_dense.engine.rates import add_rate_argument
    from vit22b_dense.engine.strategies import add_strategy_arguments
    from vit22b_dense.errors import ToolParser, UserError, run_tool
    from vit22b_dense.fewshot.cells import TABLE, Cell, results
    from vit22b_dense.fewshot.curve import draw_curve
    from vit22b_dense.fewshot.plan import Backbone, plan_cells
    from vit22b_dense.fewshot.processes import Processes
    from vit22b_dense.fewshot.runs import Run
    from vit22b_dense.fewshot.table import markdown, missing_lines, to_csv
    from vit22b_dense.files import write_atomically

FRACTIONS = ['1/16', '1/8', '1/4', '1/2', '1']


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Example: tools/fewshot.py configs/ade20k/linear.py --backbones dinov2_base vit22b_base=WEIGHTS.pth '
        '--regime finetune --seeds 0 1 2',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--backbones',
        nargs='+',
        default=['vit22b_base'],
        metavar='NAME[=WEIGHTS][:random]',
        help='rows of the table: names from configs/_base_/backbones, optionally with other pretrained weights; '
        ':random keeps the weights random, as a baseline (default: vit22b_base)',
    )
    parser.add_argument('--fractions', nargs='+', default=FRACTIONS, metavar='1/16', help='default: 1/16 … 1')
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[0, 1, 2], metavar='N', help='seeds of subset and run (default: 0 1 2)'
    )
    parser.add_argument('--regime', metavar='NAME', help='training regime: frozen (default), finetune or scratch')
    parser.add_argument(
        '--cached',
        action='store_true',
        help='compute the features of each backbone once, and train and test on them: the regime cached',
    )
    parser.add_argument(
        '--draws', type=int, default=4, metavar='K', help='with --cached: draws of each training image (default: 4)'
    )
    parser.add_argument('--features', type=Path, metavar='DIR', help='with --cached: folder of the features')
    parser.add_argument('--jobs', type=int, default=1, metavar='N', help='cells at a time (default: 1)')
    add_strategy_arguments(parser)
    parser.add_argument('--nproc', type=int, metavar='N', help='with --strategy: processes of a cell, as many as GPUs')
    add_rate_argument(parser)
    parser.add_argument('--data-root', metavar='DIR', help='folder of the data set')
    parser.add_argument('--work-dir', type=Path, metavar='DIR', help='default: work_dirs/fewshot_CONFIG')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='override settings of the config in every cell, as tools/train.py takes them',
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        '--dry-run',
        action='store_true',
        help='print the remaining commands, one line per cell, for a scheduler; use --collect afterwards',
    )
    instead.add_argument(
        '--collect', action='store_true', help='run nothing; build the table and the curve from the finished cells'
    )
    return parser.parse_args()


def write_table(cells: list[Cell], work_dir: Path, title: str) -> str:
    """Write table.md, table.csv and curve.png; the text of table.md."""
    found = results(cells, work_dir)
    text = markdown(found, title)
    try:
        write_atomically(work_dir / TABLE, to_csv(found))
        write_atomically(work_dir / 'curve.png', draw_curve(found))
        write_atomically(work_dir / 'table.md', text)
    except OSError as error:
        raise UserError(f'{work_dir}: cannot be written ({error}); choose another --work-dir') from error
    return text


def make_all_features(cells: list[Cell], draws: int, jobs: int) -> None:
    """Make the features of each row of the table, of all images that its unfinished cells train on."""
    rows = {}
    for cell in cells:
        if not cell.finished:
            rows.setdefault(cell.entry.backbone, []).append(cell)
    for row in rows.values():
        names = set().union(*(cell.train_names for cell in row))
        make_features(row[0].cfg, draws, names=names, jobs=jobs)


def terminated(*_: object) -> None:
    """Leave as on an interrupt, so that the running cell is ended too."""
    raise KeyboardInterrupt


def main() -> int:
    args = parse_args()
    if args.cached and args.regime not in (None, 'cached'):
        raise UserError(f'--cached, --regime {args.regime}: choose one; features are of a frozen backbone')
    if args.features and not args.cached:
        raise UserError(f'--features {args.features}: features are read with --cached only')
    if args.cached:
        args.regime = 'cached'
        args.cfg_options = [*args.cfg_options, f'features.draws={args.draws}']
    if args.lr:
        args.cfg_options = [*args.cfg_options, args.lr]
    processes = Processes.of(args)
    args.config = str(find_config(args.config))  # one name for one config in tables and commands
    name = Path(default_work_dir(args.config, dict(regime=args.regime))).name
    work_dir = args.work_dir or Path('work_dirs', f'fewshot_{name}')
    cells = plan_cells(
        args.config,
        [Backbone.parse(text) for text in args.backbones],
        args.fractions,
        args.seeds,
        work_dir,
        Path(__file__).resolve().parent,
        args.regime,
        args.data_root,
        args.cfg_options,
        args.features,
        processes,
    )
    if args.collect and not work_dir.is_dir():
        raise UserError(f'{work_dir}: no such folder, so there is nothing to collect; name it with --work-dir')
    results(cells, work_dir)  # refuses a folder with a table of another protocol
    if args.dry_run:
        lines = [' && '.join(map(shlex.join, cell.commands().values())) for cell in cells if not cell.finished]
        print('\n'.join(lines), end='\n' if lines else '')
        print(f'{len(lines)} of {len(cells)} cells to be run', file=sys.stderr)
        return 0
    title = f'Few-shot: {args.config}, {args.regime or "frozen"}'
    write_table(cells, work_dir, title)
    if not args.collect:
        for ending in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(ending) != signal.SIG_IGN:  # as nohup has it
                signal.signal(ending, terminated)
        if args.cached:
            make_all_features(cells, args.draws, args.jobs)
        if args.jobs > 1:  # torch reads it as it is loaded, by the processes of the cells
            os.environ.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // args.jobs)))
        Run(cells, lambda: write_table(cells, work_dir, title), args.jobs).all()
    print(f'\n{write_table(cells, work_dir, title)}')
    found = [cell.result() for cell in cells]
    finished = sum(result.status == 'finished' for result in found)
    print(f'{finished} of {len(cells)} cells finished; table.md, table.csv, curve.png in {work_dir}')
    for line in missing_lines(found):
        print(f'  {line}')
    return 0 if finished == len(cells) else 1


if __name__ == '__main__':
    run_tool(main)
