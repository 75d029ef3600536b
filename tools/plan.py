#!/usr/bin/env python
"""Which set-up fits which machine: weights, gradients, activations and communication of each, and a command to type.

Everything is counted on the real model without its memory; nothing is run. Measured on the CPU, the totals are within
15 % of the peaks of small models; what a GPU takes besides is not measured.
"""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse
import json

from vit22b_dense.errors import ToolParser, run_tool
from vit22b_dense.planning.plan import (
    LEAVES,
    USABLE,
    Wanted,
    advice,
    as_json,
    commands,
    gigabytes,
    memory_of,
    recommended,
    rows_of,
    table_of,
)


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Example: tools/plan.py --backbone vit22b --gpus 8 --memory 80GB --regime finetune --tokens 1296',
    )
    parser.add_argument('--backbone', default='vit22b', metavar='NAME', help='default: vit22b')
    parser.add_argument('--regime', choices=['frozen', 'finetune'], default='frozen', help='default: frozen')
    parser.add_argument('--decoder', choices=list(LEAVES), default='linear', help='default: linear')
    parser.add_argument('--gpus', type=int, default=1, metavar='N', help='devices of the machine (default: 1)')
    parser.add_argument('--memory', default='80GB', metavar='SIZE', help='of one device (default: 80GB)')
    parser.add_argument('--tokens', type=int, default=1296, metavar='N', help='of an image (default: 1296, 504 px)')
    parser.add_argument(
        '--batch-size', type=int, default=1, metavar='N',
        help='images of a step on each device, or on the devices that share a block (default: 1)',
    )  # fmt: skip
    parser.add_argument('--json', action='store_true', help='print JSON, in bytes')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    wanted = Wanted(
        args.backbone, args.regime, args.decoder, args.gpus, memory_of(args.memory), args.tokens, args.batch_size
    )
    rows = rows_of(wanted)
    if args.json:
        print(json.dumps(as_json(wanted, rows), indent=2))
        return
    print(
        f'{wanted.backbone}, {wanted.regime}, {wanted.decoder}: {wanted.batch} x {wanted.tokens} tokens on each of '
        f'{wanted.gpus} x {gigabytes(wanted.memory)}, of which {USABLE:.0%} are counted on'
    )
    print(table_of(rows))
    best = recommended(wanted, rows)
    if best is None:
        print(advice(wanted))
    else:
        print('\n'.join([f'take {best.setup.name}:', *(f'  {line}' for line in commands(wanted, best.setup))]))


if __name__ == '__main__':
    run_tool(main)
