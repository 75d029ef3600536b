#!/usr/bin/env python
"""Train a model from a config, with mmseg's flags and the axes of the configs here."""

import argparse
import os

import torch
from mmengine.runner import Runner

from vit22b_dense.engine.config import (
    AXES,
    ConfigError,
    add_config_arguments,
    check_data,
    default_work_dir,
    load_config,
)
from vit22b_dense.errors import run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Example: tools/train.py configs/ade20k/linear.py --backbone vit22b_base --fraction 1/16',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', metavar='DIR', help='where logs and checkpoints go (default: below work_dirs/)')
    parser.add_argument('--resume', action='store_true', help='continue from the last checkpoint in the work dir')
    parser.add_argument('--amp', action='store_true', help='mixed precision (bfloat16 where the accelerator has it)')
    add_config_arguments(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    args = parse_args()
    axes = {axis: getattr(args, axis) for axis in AXES}
    cfg = load_config(args.config, axes, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(args.config, axes)
    cfg.resume = args.resume
    if args.amp:
        if not torch.cuda.is_available():
            raise ConfigError('--amp: mixed precision needs an accelerator, and none is there; leave it out')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.dtype = 'bfloat16' if torch.cuda.is_bf16_supported() else 'float16'
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    Runner.from_cfg(cfg).train()


if __name__ == '__main__':
    run_tool(main)
