#!/usr/bin/env python
"""Test a checkpoint: scores beside a constant answer's, predictions and pictures.

The work dir gets scores.json (all scores, versions) and, in examples/, pictures of the best, median and worst image.
"""

import argparse
import json
import os
from pathlib import Path

from mmengine.runner import Runner

from vit22b_dense.engine.config import AXES, add_config_arguments, check_data, default_work_dir, load_config
from vit22b_dense.engine.record import draw_examples, versions
from vit22b_dense.errors import run_tool
from vit22b_dense.files import write_atomically


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Example: tools/test.py configs/camvid/linear.py work_dirs/run/iter_400.pth --show-dir pictures',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file, .pth or .safetensors')
    parser.add_argument(
        '--work-dir', metavar='DIR', help='where the log and scores.json go (default: below work_dirs/)'
    )
    parser.add_argument('--out', metavar='DIR', help='write predictions there, as PNG: labels, or depth in 1/256 m')
    parser.add_argument('--show-dir', metavar='DIR', help='write pictures there: image, truth and prediction')
    add_config_arguments(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def beside(metric: dict) -> list[dict]:
    """The metrics that go with a config's own: one scores a constant answer, one each image."""
    if metric['type'] != 'SparseDepthMetric':
        return [dict(type='MajorityClassMetric'), dict(type='ImageIoUMetric')]
    protocol = {key: metric[key] for key in ('max_depth', 'min_depth', 'crop') if key in metric}
    return [dict(type=name, **protocol) for name in ('MeanDepthMetric', 'ImageDepthMetric')]


def summary(scores: dict, depth: bool) -> str:
    if not depth:
        return f'mIoU {scores["mIoU"]:.2f} (majority class {scores["majority/mIoU"]:.2f})'
    names = ('abs_rel', 'rmse', 'delta_1.25')
    shown = (f'{n} {scores[f"pixel/{n}"]:.3f} ({scores.get(f"mean_depth/{n}", float("nan")):.3f})' for n in names)
    return f'{", ".join(shown)}; in brackets the mean depth; over all pixels'


def main() -> None:
    args = parse_args()
    axes = {axis: getattr(args, axis) for axis in AXES}
    cfg = load_config(args.config, axes, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(args.config, axes)
    cfg.load_from = args.checkpoint
    if args.show_dir:
        cfg.default_hooks.visualization.draw = True
        cfg.visualizer.save_dir = args.show_dir
    if args.out:
        cfg.test_evaluator.output_dir = args.out
    depth = cfg.test_evaluator.type == 'SparseDepthMetric'
    cfg.test_evaluator = [cfg.test_evaluator, *beside(cfg.test_evaluator)]
    check_data(cfg, ('test_dataloader',))
    runner = Runner.from_cfg(cfg)
    scores = runner.test()
    if runner.rank == 0:
        record = dict(
            config=args.config,
            axes={axis: value for axis, value in axes.items() if value is not None},
            checkpoint=str(Path(args.checkpoint).resolve()) if Path(args.checkpoint).exists() else args.checkpoint,
            images=len(runner.test_dataloader.dataset),
            scores={name: float(value) for name, value in scores.items()},
            examples=draw_examples(runner, runner.test_evaluator.metrics[-1], Path(cfg.work_dir, 'examples')),
            versions=versions(),
        )
        path = Path(cfg.work_dir, 'scores.json')
        write_atomically(path, json.dumps(record, indent=2) + '\n')
        print(f'{summary(scores, depth)}, written to {path}')


if __name__ == '__main__':
    run_tool(main)
