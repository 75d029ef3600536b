#!/usr/bin/env python
"""Write an HTML report of runs: tables, curves, losses, scores by class or distance, pictures, configs, versions.

The page is self-contained and needs no network. A work dir is one written by tools/fewshot.py, or a folder that
contains runs of tools/train.py and tools/test.py.
"""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse
from pathlib import Path

from vit22b_dense.errors import ToolParser, UserError, run_tool
from vit22b_dense.evaluation.report import render
from vit22b_dense.fewshot.report import section
from vit22b_dense.files import write_atomically


def main() -> None:
    parser = ToolParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Example: tools/report.py work_dirs/fewshot_camvid_linear --out report.html',
    )
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='folder with runs')
    parser.add_argument('--out', type=Path, metavar='FILE', help='default: report.html in the first WORK_DIR')
    parser.add_argument('--title', help='default: what was run')
    args = parser.parse_args()
    out = args.out or args.work_dirs[0] / 'report.html'
    page = render([section(work_dir) for work_dir in args.work_dirs], args.title)
    try:
        write_atomically(out, page)
    except OSError as error:
        raise UserError(f'{out}: cannot be written ({error}); name another place with --out') from error
    print(f'{out}: {len(page) / 1e6:.1f} MB')


if __name__ == '__main__':
    run_tool(main)
