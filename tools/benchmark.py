#!/usr/bin/env python
"""Speed and memory side by side: blocks, backbones, training, inference, windows, post-processing, metrics.

All cases of a group run in one process, in turn, so that whatever else the machine does hits all alike. A table has
medians with lowest and highest; speeds are ratios within a round to the group's first case. "of ceiling" is the share
of the speed of a large matrix product on the same device in the same rounds.

On a machine that does other work, set OMP_NUM_THREADS=1: with one thread, processor time is measured, which other
processes do not prolong. Otherwise trust the ratios rather than the milliseconds.
"""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from prettytable import PrettyTable

import vit22b_dense  # noqa: F401  (registers everything)
from vit22b_dense.benchmark.blocks import block_groups
from vit22b_dense.benchmark.dense import (
    backbone_groups,
    decoder_groups,
    evaluation_groups,
    inference_groups,
    windows_groups,
)
from vit22b_dense.benchmark.kernel import attention_kernel
from vit22b_dense.benchmark.picture import draw
from vit22b_dense.benchmark.timing import HEADER, Group, measure, shown
from vit22b_dense.benchmark.training import training_groups
from vit22b_dense.engine.record import versions
from vit22b_dense.errors import ToolParser, UserError, run_tool
from vit22b_dense.files import write_atomically
from vit22b_dense.models.backbones.vit22b import ARCHS

SECTIONS = ('blocks', 'backbones', 'training', 'inference', 'windows', 'decoders', 'evaluation')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Example: tools/benchmark.py --only blocks --sizes small base --dtypes float32 bfloat16',
    )
    parser.add_argument('--only', nargs='+', choices=SECTIONS, default=SECTIONS, metavar='SECTION',
                        help=f'some of {", ".join(SECTIONS)} (default: all)')  # fmt: skip
    parser.add_argument('--sizes', nargs='+', choices=ARCHS, default=['small'], metavar='SIZE',
                        help=f'some of {", ".join(ARCHS)} (default: small)')  # fmt: skip
    parser.add_argument('--tokens', nargs='+', type=int, default=[256, 1296], metavar='N', help='of the blocks')
    parser.add_argument(
        '--pixels', type=int, default=504, metavar='N', help='side of images and windows, a multiple of 14'
    )
    parser.add_argument(
        '--dtypes', nargs='+', choices=['float32', 'bfloat16'], default=['float32'], help='of the blocks'
    )
    parser.add_argument('--compiled', action='store_true', help='also compile the blocks')
    parser.add_argument('--rounds', type=int, default=7, metavar='N', help='(default: 7)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers there')
    parser.add_argument('--picture', type=Path, metavar='FILE', help='draw the speeds there')
    args = parser.parse_args(argv)
    if args.rounds < 1:
        raise UserError(f'--rounds {args.rounds}: at least one is needed')
    if args.pixels < 28 or args.pixels % 14:
        raise UserError(f'--pixels {args.pixels}: give a multiple of 14, at least 28')
    return args


def groups(args: argparse.Namespace, device: torch.device) -> Iterator[Group]:
    """What the arguments ask for; a group's models are built when its turn comes."""
    dtypes = [getattr(torch, name) for name in args.dtypes]
    made = {
        'blocks': lambda: block_groups(args.sizes, args.tokens, dtypes, args.compiled, device),
        'backbones': lambda: backbone_groups(args.sizes, args.pixels, device),
        'training': lambda: training_groups(args.sizes, args.pixels, device),
        'inference': lambda: inference_groups(args.sizes, args.pixels, device),
        'windows': lambda: windows_groups(args.sizes, args.pixels, device),
        'decoders': lambda: decoder_groups(args.sizes, args.pixels, device),
        'evaluation': lambda: evaluation_groups(args.pixels, device),
    }
    for section in SECTIONS:
        if section in args.only:
            yield from made[section]()


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    machine = dict(
        **versions(), threads=torch.get_num_threads(), cores=os.cpu_count(), load=round(os.getloadavg()[0], 2)
    )
    print(', '.join(f'{name} {value}' for name, value in machine.items()), flush=True)
    kernels = {
        f'{size}, {tokens} tokens, {dtype}': attention_kernel(size, tokens, getattr(torch, dtype), device)
        for size in args.sizes
        for tokens in args.tokens
        for dtype in args.dtypes
    }
    print('attention: ' + '; '.join(f'{kernel} ({case})' for case, kernel in kernels.items()), flush=True)
    rows = []
    for group in groups(args, device):
        found = measure(group, args.rounds, device)
        table = PrettyTable(HEADER, align='r')
        table.align['case'] = 'l'
        table.add_rows(shown(found))
        print(f'\n{group.section}: {group.title}\n{table}', flush=True)
        rows += found
        if args.json:
            content = dict(
                machine=machine, attention=kernels, rounds=args.rounds, rows=[row.to_dict() for row in rows]
            )
            write_atomically(args.json, (json.dumps(content, indent=2) + '\n').encode())
    if args.picture:
        draw(rows, args.picture)


if __name__ == '__main__':
    run_tool(main)
