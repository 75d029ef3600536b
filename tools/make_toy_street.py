#!/usr/bin/env python
"""Generate the toy street: ray-cast scenes with label maps (in ADE20K's layout), with LiDAR (in Waymo's), or crops
with the names of what they show.

The same arguments give the same files. A complete dataset is left alone; an interrupted one is completed.
"""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse
import os
import time
from functools import partial
from pathlib import Path

from vit22b_dense.demo.ade import AdeSet
from vit22b_dense.demo.labelled import LabelledSet
from vit22b_dense.errors import ToolParser, UserError, run_tool
from vit22b_dense.progress import Progress


def parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition('x')
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f'{text!r} is not HEIGHTxWIDTH in pixels, such as 224x320')
    return int(height), int(width)


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='Example: tools/make_toy_street.py data/toy_street --train 320 --val 64',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('out', metavar='OUT', type=Path, help='a new or empty folder, or a toy street')
    parser.add_argument(
        '--format',
        choices=['ade', 'waymo', 'labels'],
        default='ade',
        help="layout: ADE20K's, Waymo's v2 parquet files, or crops with the names of what they show, to pretrain on",
    )
    parser.add_argument('--crop', metavar='N', type=int, default=28, help='side of the crops with labels, in pixels')
    parser.add_argument('--train', metavar='N', type=int, default=320, help='training frames (waymo: segments)')
    parser.add_argument('--val', metavar='N', type=int, default=64, help='validation frames (waymo: segments)')
    parser.add_argument('--size', metavar='HxW', type=parse_size, default='224x320', help='in pixels')
    parser.add_argument('--seed', metavar='N', type=int, default=0, help='a different seed gives different streets')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    parser.add_argument('--workers', metavar='N', type=int, default=cores, help='processes')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    start = time.time()
    kind, unit = AdeSet, 'frames'
    if args.format == 'waymo':
        from vit22b_dense.demo.waymo import WaymoSet  # needs pyarrow

        kind, unit = WaymoSet, 'segments'
    elif args.format == 'labels':
        kind = partial(LabelledSet, crop=args.crop)
    try:
        made = kind(args.out, args.train, args.val, args.size, args.seed).write(args.workers, Progress(unit))
    except OSError as error:
        raise UserError(f'cannot write the toy street to {args.out}: {error}') from error
    said = f'made {made} {unit} in {time.time() - start:.0f} s' if made else 'already complete'
    print(f'{said}: {args.train} training and {args.val} validation {unit} in {args.out}')
    if args.format == 'waymo':
        print('  {training,validation}/COMPONENT/SEGMENT.parquet: next, tools/prepare_waymo.py')
    elif args.format == 'labels':
        print('  {images,labels}/{train,val}: next, tools/train.py configs/pretrain/toy_street.py')
    else:
        print('  {images,annotations}/{training,validation}: in the layout and with the labels of ADE20K')


if __name__ == '__main__':
    run_tool(main)
