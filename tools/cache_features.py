#!/usr/bin/env python
"""Compute the features of a frozen backbone once, to train and test decoders on them with --regime cached.

Of each training image there are several draws of the config's augmentation (the first is plain); of each test image
what a test needs. Run the same command again to continue, or to add a larger fraction: what is there is kept. Several
processes: --jobs, or torchrun.
"""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse

from vit22b_dense.engine.config import add_config_arguments, check_data, config_of
from vit22b_dense.engine.features.maker import make_features
from vit22b_dense.engine.features.store import DTYPES
from vit22b_dense.engine.strategies import add_strategy_arguments, use_strategy
from vit22b_dense.engine.streaming import add_stream_argument, stream_weights
from vit22b_dense.errors import ToolParser, run_tool


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Example: tools/cache_features.py configs/camvid/linear.py --backbone dinov2_small --draws 4',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--draws', type=int, default=4, metavar='K', help='draws of each training image (default: 4; 1 is fastest)'
    )
    parser.add_argument('--dtype', choices=DTYPES, help='of the stored features (default: bf16)')
    parser.add_argument('--jobs', type=int, default=1, metavar='N', help='processes on this machine (default: 1)')
    add_stream_argument(parser)
    add_config_arguments(parser)
    add_strategy_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.regime = args.regime or 'cached'
    cfg = config_of(args)
    use_strategy(cfg, args)
    if args.stream_weights:
        stream_weights(cfg)
    check_data(cfg, ('train_dataloader', 'test_dataloader'))
    make_features(cfg, args.draws, args.dtype, jobs=args.jobs)


if __name__ == '__main__':
    run_tool(main)
