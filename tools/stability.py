#!/usr/bin/env python
"""QK-norm and stability: the same small model, data and high learning rate, with and without QK-norm.

Trains both on a toy street of labels (tools/make_toy_street.py --format labels), looks at the attention in every
iteration, and writes stability.json and stability.png: loss, largest attention logit, and entropy by iteration.
"""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse
import io
import json
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from mmengine.config import Config

from vit22b_dense.engine.config import find_config, load_config
from vit22b_dense.engine.guards import DivergedError
from vit22b_dense.engine.run import build_training
from vit22b_dense.errors import ToolParser, run_tool
from vit22b_dense.files import naming, write_atomically

SIZES = dict(embed_dims=192, num_layers=6, num_heads=3, mlp_dims=768)
SIDE = 56  # of a picture, pixels: 16 tokens
WARMUP = 20  # iterations
ENTROPY = 'attention entropy, nats (grey: uniform)\nmean of the blocks, dotted: lowest block'
ARMS = {'with QK-norm': True, 'without QK-norm': False}


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Example: tools/stability.py data/toy_street_labels --seed 1',
    )
    parser.add_argument('data', metavar='DATA', type=Path, help='a toy street of labels')
    parser.add_argument('--work-dir', metavar='DIR', type=Path, default='work_dirs/stability', help='new or empty')
    parser.add_argument('--lr', metavar='RATE', type=float, default=5e-3, help='learning rate (default: 5e-3)')
    parser.add_argument('--iterations', metavar='N', type=int, default=200, help='of each run (default: 200)')
    parser.add_argument('--seed', metavar='N', default='0', help='of weights and data order (default: 0)')
    return parser.parse_args()


def config(args: argparse.Namespace, name: str) -> Config:
    """The pretraining on the toy street, smaller, at a constant rate without clipping, nothing stopped."""
    overrides = {
        'train_cfg.max_iters': args.iterations, 'train_dataloader.batch_size': 16, 'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False, 'optim_wrapper.optimizer.lr': args.lr,
        'model.backbone.img_size': SIDE, 'log_processor.window_size': 1, 'default_hooks.logger.interval': 1,
        'default_hooks.checkpoint.interval': args.iterations,
        **{f'default_hooks.stability.{key}': value for key, value in
           dict(interval=1, heads=SIZES['num_heads'], images=4, patience=0).items()},
    }  # fmt: skip
    axes = dict(backbone='vit22b_tiny', regime='pretrain', seed=args.seed, data_root=str(args.data))
    cfg = load_config(find_config('vit22b_dense::pretrain/toy_street.py'), axes, overrides)
    cfg.optim_wrapper.pop('clip_grad')
    cfg.model.backbone.arch = dict(SIZES, qk_norm=ARMS[name])
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=1 / WARMUP, by_epoch=False, begin=0, end=WARMUP)]
    train = cfg.train_dataloader.dataset.dataset.dataset
    train.pipeline.insert(1, dict(type='Resize', scale=(SIDE, SIDE)))
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    # of one name, the second run would get the first one's log
    cfg.visualizer.name = cfg.experiment_name = name.replace(' ', '_')
    cfg.work_dir, cfg.resume, cfg.launcher = str(args.work_dir / cfg.experiment_name), False, 'none'
    return cfg


def run(cfg: Config) -> dict:
    """Train; by iteration the loss, the largest logit and each block's entropy, and what stopped the run, if any."""
    stopped = None
    try:
        build_training(cfg).train()
    except DivergedError as error:
        stopped = str(error)
    (path,) = Path(cfg.work_dir).glob('*/vis_data/2*.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    looks = [line for line in lines if 'attention/entropy/0' in line]
    blocks = range(cfg.model.backbone.arch['num_layers'])
    return dict(
        loss=[line['loss'] for line in lines if 'loss' in line],
        max_logit=[max(look[f'attention/max_logit/{i}'] for i in blocks) for look in looks],
        entropy=[[look[f'attention/entropy/{i}'] for i in blocks] for look in looks],
        stopped=stopped,
    )


def draw(results: dict[str, dict], title: str) -> bytes:
    """Three panels: the loss, the largest logit, and the entropy of the blocks: their mean, and the lowest dotted."""
    figure = Figure(figsize=(13, 3.8), dpi=110, layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    for (name, result), colour in zip(results.items(), ('tab:blue', 'tab:red'), strict=True):
        entropy = np.array(result['entropy'])
        curves = (result['loss'], result['max_logit'], entropy.mean(axis=1))
        for panel, values in zip(panels, curves, strict=True):
            panel.plot(range(1, len(values) + 1), values, color=colour, label=name)
        panels[2].plot(range(1, len(entropy) + 1), entropy.min(axis=1), color=colour, linestyle=':')
    for panel, text in zip(panels, ('training loss', 'largest attention logit', ENTROPY), strict=True):
        panel.set(title=text, xlabel='iteration')
        panel.grid(alpha=0.3)
    for panel in panels[:2]:
        panel.set_yscale('log')
        panel.yaxis.set_major_formatter('{x:g}')
        panel.yaxis.set_minor_formatter(LogFormatter())  # labels where there is less than a decade
    panels[2].axhline(np.log((SIDE // 14) ** 2), color='grey', linewidth=0.8)
    panels[0].legend()
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', metadata={'Software': None})
    return buffer.getvalue()


def main() -> None:
    args = parse_args()
    results = {name: run(config(args, name)) for name in ARMS}
    about = dict(lr=args.lr, seed=args.seed, iterations=args.iterations, arch=SIZES, side=SIDE)
    with naming(args.work_dir):
        write_atomically(args.work_dir / 'stability.json', json.dumps(dict(about, runs=results)) + '\n')
        title = f'ViT22B, {SIZES["num_layers"]} blocks of width {SIZES["embed_dims"]}, learning rate {args.lr:g}'
        write_atomically(args.work_dir / 'stability.png', draw(results, f'{title}, seed {args.seed}'))
    for name, result in results.items():
        last = np.array(result['entropy'][-20:])
        print(
            f'{name}: highest loss {max(result["loss"]):.2f}, at the end (20 iterations) loss '
            f'{np.mean(result["loss"][-20:]):.2f}, largest logit {max(result["max_logit"][-20:]):.4g}, entropy '
            f'{last.mean():.2f}, of the lowest block {last.mean(axis=0).min():.3f}'
            + (f'; stopped: {result["stopped"]}' if result['stopped'] else '')
        )
    print(f'written: {args.work_dir / "stability.png"}, stability.json')


if __name__ == '__main__':
    run_tool(main)
