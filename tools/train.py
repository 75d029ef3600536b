#!/usr/bin/env python
"""Train a model from a config, with mmseg's flags and a flag for each axis that the configs leave open."""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse

from vit22b_dense.engine.config import merge_overrides, parse_overrides
from vit22b_dense.engine.rates import add_rate_argument
from vit22b_dense.engine.run import add_run_arguments, build_training, leave, run_config
from vit22b_dense.errors import ToolParser, run_tool


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='Example: tools/train.py configs/ade20k/linear.py --backbone vit22b_base --fraction 1/16',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--resume', action='store_true', help='continue from the last checkpoint in the work dir')
    parser.add_argument('--no-validate', action='store_true', help='train without validation')
    add_rate_argument(parser)
    add_run_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = run_config(args)
    cfg.resume = args.resume
    if args.lr:
        merge_overrides(cfg, parse_overrides([args.lr]))
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    build_training(cfg).train()
    leave()


if __name__ == '__main__':
    run_tool(main)
