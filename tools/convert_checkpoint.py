#!/usr/bin/env python
"""Convert a checkpoint between formats (.pth, .safetensors, sharded safetensors) and layouts of its weights.

The source is never changed; the destination appears under its name only once it is complete. A checkpoint of a frozen
run refers to its backbone's weights: they are located, by --weights if they have moved, and included in the result.
"""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse
import re
import time
from pathlib import Path

import torch

from vit22b_dense.checkpoint import LAYOUTS, SAME, CheckpointError, check_apart, convert_checkpoint
from vit22b_dense.checkpoint.errors import shorten
from vit22b_dense.checkpoint.reading import is_distributed
from vit22b_dense.engine.restore import whole_checkpoint
from vit22b_dense.errors import ToolParser, UserError, run_tool
from vit22b_dense.files import scratch_folder
from vit22b_dense.progress import Progress

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
UNITS = {'': 1, 'B': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'KIB': 2**10, 'MIB': 2**20, 'GIB': 2**30}


def parse_bytes(text: str) -> int:
    match = re.fullmatch(r'(\d+(?:\.\d+)?)\s*([A-Za-z]*)', text)
    if not match or match[2].upper() not in UNITS or not float(match[1]):
        raise argparse.ArgumentTypeError(f'{text!r} is not a size such as 5GB, 500MB or 2GiB')
    return int(float(match[1]) * UNITS[match[2].upper()])


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='Example: tools/convert_checkpoint.py InternViT-6B/ internvit_6b.safetensors --dtype bfloat16',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('source', metavar='SRC', help='.pth, .safetensors, a folder or index of shards, or a .dcp')
    parser.add_argument('destination', metavar='DST', help='.pth, .safetensors, or else a folder of shards')
    parser.add_argument('--from', dest='source_layout', choices=list(LAYOUTS), help='default: detected from the names')
    parser.add_argument(
        '--to',
        dest='target_layout',
        choices=[*LAYOUTS, SAME],
        help=f'default: vit22b or plain, to match the source; {SAME}: change only the format, whatever the names',
    )
    parser.add_argument('--dtype', choices=list(DTYPES), help='type of floating-point tensors (default: unchanged)')
    parser.add_argument(
        '--max-shard-size', type=parse_bytes, metavar='SIZE', help='size of the shards in a folder (default: 5GB)'
    )
    parser.add_argument('--prefix', metavar='P', help="of the backbone's names in a full model (default: detected)")
    parser.add_argument('--weights', metavar='PATH', help="new location of a frozen run's pretrained backbone")
    parser.add_argument(
        '--overwrite', action='store_true', help='replace an existing destination once the new one is complete'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.max_shard_size and args.destination.endswith(('.pth', '.safetensors')):
        raise UserError(f'--max-shard-size is for a folder of shards, and {args.destination} names a file')
    check_apart(args.source, args.destination)
    start = time.time()
    parent = next(path for path in Path(args.destination).expanduser().absolute().parents if path.exists())
    with scratch_folder(parent / f'{Path(args.destination).name}.whole') as folder:
        source = whole_source(args, folder)
        if source != args.source and not (args.source_layout or args.prefix):
            args.target_layout = args.target_layout or SAME  # a run's names are those of its model, whatever that is
        try:
            convert(args, source, start)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(source), args.source)) from error


def whole_source(args: argparse.Namespace, folder: Path) -> str | Path:
    """The source, or if it refers to weights, a complete copy of it in a folder."""
    of_a_run = args.source.endswith('.pth') or is_distributed(args.source)
    checkpoint = whole_checkpoint(args.source, args.weights) if of_a_run else None
    if checkpoint is None:
        if args.weights:
            raise UserError(
                f'--weights {args.weights}: {args.source} contains all of its weights; leave --weights out'
            )
        return args.source
    whole = folder / f'{Path(args.source).stem}.pth'
    torch.save(checkpoint, whole)
    return whole


def convert(args: argparse.Namespace, source: str | Path, start: float) -> None:
    done = convert_checkpoint(
        source,
        args.destination,
        source_layout=args.source_layout,
        target_layout=args.target_layout,
        dtype=DTYPES.get(args.dtype),
        max_shard_bytes=args.max_shard_size or 5 * 10**9,
        prefix=args.prefix,
        overwrite=args.overwrite,
        progress=Progress(lambda done, total: f'{done / 1e9:.3f} of {total / 1e9:.3f} GB'),
    )
    if done.left_out:
        print(f'note: left out {len(done.left_out)} tensors that are not of the backbone: {shorten(done.left_out)}')
    print(
        f'{args.destination}: {done.tensors} tensors, {done.nbytes / 1e9:.3f} GB, layout {done.source_layout} -> '
        f'{done.target_layout}, in {time.time() - start:.0f} s'
    )


if __name__ == '__main__':
    run_tool(main)
