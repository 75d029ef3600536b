#!/usr/bin/env python
"""Segmentation and depth on a generated toy street: make the data, train, test, and write scores and pictures.

Segmentation uses images in ADE20K's layout and trains from scratch. Depth uses files in Waymo's schema, prepared like
Waymo's own; its decoders are trained on the features of a frozen backbone with random weights, computed once.
Everything goes to one folder: data/ and depth_data/, a folder for each run, pictures, street.png, overview.png,
depth_overview.png and scores.md.
"""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from mmseg.datasets import ADE20KDataset
from PIL import Image

from vit22b_dense.errors import ToolParser, run_tool
from vit22b_dense.evaluation.panels import compose
from vit22b_dense.files import write_atomically
from vit22b_dense.warm import start_warm

TOOLS = Path(__file__).resolve().parent
CONFIGS = TOOLS.parent / 'configs/demo'
BACKBONE = ['--backbone', 'vit22b_tiny']
DECODERS = {'linear': 'linear_depth', 'DPT': 'dpt'}
STEPS = 11


def run(title: str, *command: str | Path) -> None:
    """Announce and run one of the tools; stop the demo if it fails."""
    run.step += 1
    print(f'\n== {run.step}/{STEPS} {title}\n   {" ".join(map(str, command))}', flush=True)
    process = start_warm([TOOLS / command[0], *command[1:]])
    process.join()
    if process.exitcode:
        sys.exit(f'the demo stopped: {command[0]} ended with status {process.exitcode}')


run.step = 0


def overview(pictures: list[Path], target: Path, titles: list[str] | None = None) -> None:
    """Stack some pictures into one, with a title above each or without."""
    images = [np.asarray(Image.open(path).convert('RGB')) for path in pictures]
    if titles:
        images = [compose([pair]) for pair in zip(titles, images, strict=True)]
    width = max(image.shape[1] for image in images)
    rows = [np.pad(i, ((0, 0), (0, width - i.shape[1]), (0, 0)), constant_values=255) for i in images]
    Image.fromarray(np.concatenate(rows)).save(target)


def train_and_test(name: str, config: Path, axes: list[str | Path], run_dir: Path, out: Path) -> dict[str, float]:
    """Train a config, test its last checkpoint with pictures into ``out``, and return the scores."""
    run(f'training {name}', 'train.py', config, *axes, '--work-dir', run_dir, '--resume', '--no-validate')
    checkpoint = (run_dir / 'last_checkpoint').read_text()
    pictures = ['--show-dir', out / 'pictures']
    run(f'testing {name}', 'test.py', config, checkpoint, *axes, '--work-dir', out, *pictures)
    return json.loads((out / 'scores.json').read_text())['scores']


def street(data: Path, target: Path) -> None:
    """A first picture: some training images and their labels."""
    rows = []
    for path in sorted((data / 'images/training').iterdir())[:3]:
        labels = np.asarray(Image.open(data / 'annotations/training' / f'{path.stem}.png'))
        colours = np.array([[0, 0, 0], *ADE20KDataset.METAINFO['palette']], np.uint8)[labels]
        rows.append(compose([('image', np.asarray(Image.open(path))), ('label', colours)]))
    Image.fromarray(np.concatenate(rows)).save(target)
    print(f'A first look at the data: {target}', flush=True)


def segmentation(work_dir: Path) -> str:
    """The segmentation half; its table."""
    data = work_dir / 'data'
    run('making the toy street', 'make_toy_street.py', data)
    street(data, work_dir / 'street.png')
    axes = [*BACKBONE, '--regime', 'scratch', '--data-root', data]
    scores = train_and_test(
        'a tiny ViT22B from random weights', CONFIGS / 'linear.py', axes, work_dir / 'run', work_dir
    )
    overview(sorted((work_dir / 'pictures').rglob('*.png'))[:4], work_dir / 'overview.png')
    return (
        '| | mIoU | pixel accuracy |\n|---|---|---|\n'
        f'| tiny ViT22B, linear decoder | {scores["mIoU"]:.2f} | {scores["aAcc"]:.2f} |\n'
        f'| majority class everywhere | {scores["majority/mIoU"]:.2f} | {scores["majority/aAcc"]:.2f} |\n'
    )


def row(title: str, scores: dict[str, float], group: str, names: tuple[str, ...]) -> str:
    return ' | '.join([f'| {title}', *(f'{scores[group + name]:.3f}' for name in names)]) + ' |'


def depth(work_dir: Path) -> str:
    """The depth half; its table."""
    source, data = work_dir / 'depth_source', work_dir / 'depth_data'
    run('making a toy street with LiDAR, in Waymo\'s schema', 'make_toy_street.py', source, '--format', 'waymo',
        '--train', '32', '--val', '8', '--size', '224x336')  # fmt: skip
    for split in ('training', 'validation'):
        run(f'preparing its {split} split', 'prepare_waymo.py', source, data, '--split', split)
    names = ('abs_rel', 'rmse', 'delta_1.25', 'mse_log')
    rows = [f'| depth | {" | ".join(names)} |', '|---' * (len(names) + 1) + '|']
    axes = [*BACKBONE, '--regime', 'cached', '--data-root', data, '--features', work_dir / 'depth_features']
    run('computing the features of a frozen backbone', 'cache_features.py', CONFIGS / 'dpt.py', *axes)
    for decoder, config in DECODERS.items():
        out = work_dir / f'depth_{config}'
        scores = train_and_test(f'{decoder} depth on these features', CONFIGS / f'{config}.py', axes, out / 'run', out)
        rows.append(row(f'frozen random ViT22B, {decoder}', scores, '', names))
    for key, title in (('mean_depth/', 'mean depth everywhere'), ('mean_log_depth/', 'mean log depth everywhere')):
        rows.append(row(title, scores, key, names))
    pictures = [sorted((work_dir / f'depth_{config}/pictures').rglob('*.png'))[3] for config in DECODERS.values()]
    overview(pictures, work_dir / 'depth_overview.png', [f'{decoder} decoder' for decoder in DECODERS])
    return '\n'.join(rows) + '\n'


def main() -> None:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'), metavar='DIR')
    work_dir = parser.parse_args().work_dir
    start = time.time()
    text = f'{segmentation(work_dir)}\n{depth(work_dir)}'
    write_atomically(work_dir / 'scores.md', text)
    print(f'\n{text}\nDone in {(time.time() - start) / 60:.1f} minutes. Open {work_dir / "overview.png"} and '
          f'{work_dir / "depth_overview.png"}; the pictures of all images are in the folders beside them')  # fmt: skip


if __name__ == '__main__':
    run_tool(main)
