#!/usr/bin/env python
"""Segmentation and depth on a generated toy street: make the data, train, test, and write scores and pictures.

Segmentation uses images in ADE20K's layout and trains from scratch. Depth uses files in Waymo's schema, prepared like
Waymo's own; its decoders are trained on the features of a frozen backbone with random weights, computed once.
Everything goes to one folder: data/ and depth_data/, a folder for each run, pictures, street.png, overview.png,
depth_overview.png and scores.md. The two halves run side by side, each step's output goes to segmentation.log and
depth.log, and the street is made first, for a picture within the first minute.
"""

import vit22b_dense_interrupt  # noqa: F401  (before all that takes seconds to import)

# isort: split
import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Generator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import numpy as np
from mmseg.datasets import ADE20KDataset
from PIL import Image

from vit22b_dense.errors import ToolParser, run_tool
from vit22b_dense.evaluation.panels import compose
from vit22b_dense.files import write_atomically
from vit22b_dense.progress import overwrite_line
from vit22b_dense.warm import start_warm

TOOLS = Path(__file__).resolve().parent
CONFIGS = TOOLS.parent / 'configs/demo'
DECODERS = {'linear': 'linear_depth', 'DPT': 'dpt'}
CORES = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
START = time.time()
# Part of the demo: it yields each process that it waits for, and returns its result.
Result = TypeVar('Result')
Steps = Generator[BaseProcess, None, Result]


class Part:
    """What one half of the demo runs, with its log."""

    def __init__(self, name: str, work_dir: Path) -> None:
        self.name, self.log = name, work_dir / f'{name}.log'
        work_dir.mkdir(parents=True, exist_ok=True)
        self.log.write_text('')

    def run(self, title: str, *command: str | Path) -> Steps[None]:
        """Announce and run one of the tools; stop the demo if it fails."""
        overwrite_line('')
        print(f'{time.time() - START:5.0f} s  {self.name}: {title}', flush=True)
        with self.log.open('a') as log:
            print(f'\n== {title}\n   {" ".join(map(str, command))}', file=log, flush=True)
            process = start_warm([TOOLS / command[0], *command[1:]], stdout=log, stderr=log)
        yield process
        if process.exitcode:
            overwrite_line('')
            said = f'{self.last_line()}\nthe demo stopped: {command[0]} ended with status {process.exitcode}'
            sys.exit(f'{said}; its output is in {self.log}')

    def last_line(self) -> str:
        """What the running tool has said last."""
        lines = self.log.read_text(errors='replace').split('\n')
        return next((line.split('\r')[-1].strip() for line in reversed(lines) if line.strip()), '')


def side_by_side(parts: list[Part], halves: list[Steps]) -> list:
    """Run some parts of the demo side by side; their results. When one fails or is interrupted, all are stopped."""
    results, running = [None] * len(halves), {}

    def proceed(number: int) -> None:
        try:
            running[number] = next(halves[number])
        except StopIteration as end:
            results[number] = end.value

    try:
        for number in range(len(halves)):
            proceed(number)
        while running:
            ended = wait([process.sentinel for process in running.values()], timeout=2)
            for number, process in list(running.items()):
                if process.sentinel in ended:
                    running.pop(number).join()
                    proceed(number)
            said = ' | '.join(parts[number].last_line()[-90:] for number in running)
            overwrite_line(said[: shutil.get_terminal_size().columns - 1])
    finally:
        stop(list(running.values()))
    return results


def stop(processes: list[BaseProcess]) -> None:
    """End processes as Ctrl-C does, so that they end theirs; by force those that take longer than a few seconds."""
    for process in processes:
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGINT)
    for process in processes:
        process.join(10)
        process.kill()


def overview(pictures: list[Path], target: Path, titles: list[str] | None = None) -> None:
    """Stack some pictures into one, with a title above each or without."""
    images = [np.asarray(Image.open(path).convert('RGB')) for path in pictures]
    if titles:
        images = [compose([pair]) for pair in zip(titles, images, strict=True)]
    width = max(image.shape[1] for image in images)
    rows = [np.pad(i, ((0, 0), (0, width - i.shape[1]), (0, 0)), constant_values=255) for i in images]
    Image.fromarray(np.concatenate(rows)).save(target)


def train_and_test(
    part: Part, name: str, config: Path, axes: list[str | Path], run_dir: Path, out: Path
) -> Steps[dict[str, float]]:
    """Train a config, test its last checkpoint with pictures into ``out``, and return the scores."""
    yield from part.run(
        f'training {name}', 'train.py', config, *axes, '--work-dir', run_dir, '--resume', '--no-validate'
    )
    checkpoint = (run_dir / 'last_checkpoint').read_text()
    pictures = ['--show-dir', out / 'pictures']
    yield from part.run(f'testing {name}', 'test.py', config, checkpoint, *axes, '--work-dir', out, *pictures)
    return json.loads((out / 'scores.json').read_text())['scores']


def street(data: Path, target: Path) -> None:
    """A first picture: some training images and their labels."""
    rows = []
    for path in sorted((data / 'images/training').iterdir())[:3]:
        labels = np.asarray(Image.open(data / 'annotations/training' / f'{path.stem}.png'))
        colours = np.array([[0, 0, 0], *ADE20KDataset.METAINFO['palette']], np.uint8)[labels]
        rows.append(compose([('image', np.asarray(Image.open(path))), ('label', colours)]))
    Image.fromarray(np.concatenate(rows)).save(target)
    print(f'        a first look at the data: {target}', flush=True)


def first_picture(part: Part, work_dir: Path) -> Steps[None]:
    """The data of the segmentation half."""
    yield from part.run('making the toy street', 'make_toy_street.py', work_dir / 'data')
    street(work_dir / 'data', work_dir / 'street.png')


def segmentation(part: Part, work_dir: Path) -> Steps[str]:
    """The segmentation half; its table."""
    data = work_dir / 'data'
    axes = ['--backbone', 'vit22b_toy', '--regime', 'scratch', '--data-root', data]
    scores = yield from train_and_test(
        part, 'a ViT22B of five blocks from random weights', CONFIGS / 'linear.py', axes, work_dir / 'run', work_dir
    )
    overview(sorted((work_dir / 'pictures').rglob('*.png'))[:4], work_dir / 'overview.png')
    return (
        '| | mIoU | pixel accuracy |\n|---|---|---|\n'
        f'| ViT22B of five blocks, linear decoder | {scores["mIoU"]:.2f} | {scores["aAcc"]:.2f} |\n'
        f'| majority class everywhere | {scores["majority/mIoU"]:.2f} | {scores["majority/aAcc"]:.2f} |\n'
    )


def row(title: str, scores: dict[str, float], group: str, names: tuple[str, ...]) -> str:
    return ' | '.join([f'| {title}', *(f'{scores[group + name]:.3f}' for name in names)]) + ' |'


def depth(part: Part, work_dir: Path) -> Steps[str]:
    """The depth half; its table."""
    source, data = work_dir / 'depth_source', work_dir / 'depth_data'
    toy = ['--format', 'waymo', '--train', '32', '--val', '8', '--size', '224x336']
    toy += ['--workers', str(max(1, CORES // 2))]
    yield from part.run("making a toy street with LiDAR, in Waymo's schema", 'make_toy_street.py', source, *toy)
    for split in ('training', 'validation'):
        yield from part.run(f'preparing its {split} split', 'prepare_waymo.py', source, data, '--split', split)
    names = ('abs_rel', 'rmse', 'delta_1.25', 'mse_log')
    rows = [f'| depth | {" | ".join(names)} |', '|---' * (len(names) + 1) + '|']
    axes = ['--backbone', 'vit22b_tiny', '--regime', 'cached']
    axes += ['--data-root', data, '--features', work_dir / 'depth_features']
    cache = ['cache_features.py', CONFIGS / 'dpt.py', *axes, '--draws', '2']
    yield from part.run('computing the features of a frozen backbone', *cache)
    for decoder, config in DECODERS.items():
        out = work_dir / f'depth_{config}'
        scores = yield from train_and_test(
            part, f'{decoder} depth on these features', CONFIGS / f'{config}.py', axes, out / 'run', out
        )
        rows.append(row(f'frozen random ViT22B, {decoder}', scores, '', names))
    for key, title in (('mean_depth/', 'mean depth everywhere'), ('mean_log_depth/', 'mean log depth everywhere')):
        rows.append(row(title, scores, key, names))
    pictures = [sorted((work_dir / f'depth_{config}/pictures').rglob('*.png'))[3] for config in DECODERS.values()]
    overview(pictures, work_dir / 'depth_overview.png', [f'{decoder} decoder' for decoder in DECODERS])
    return '\n'.join(rows) + '\n'


def main() -> None:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/demo'), metavar='DIR', help='default: work_dirs/demo'
    )
    work_dir = parser.parse_args().work_dir
    # The halves share the cores. One warm process starts them all, so this holds for all.
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, CORES // 2)))
    parts = [Part(name, work_dir) for name in ('segmentation', 'depth')]
    side_by_side(parts[:1], [first_picture(parts[0], work_dir)])
    text = '\n'.join(
        side_by_side(parts, [half(part, work_dir) for half, part in zip((segmentation, depth), parts, strict=True)])
    )
    overwrite_line('')
    write_atomically(work_dir / 'scores.md', text)
    minutes = (time.time() - START) / 60
    pictures = f'{work_dir / "overview.png"} and {work_dir / "depth_overview.png"}'
    print(f'\n{text}\nDone in {minutes:.1f} minutes. Open {pictures}; the pictures of all images are beside them')


if __name__ == '__main__':
    run_tool(main)
