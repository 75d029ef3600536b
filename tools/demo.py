#!/usr/bin/env python
"""The main job on the embedded toy street: make the data, train, test, and leave scores and pictures.

Everything lands in one folder: data/, run/ (log and checkpoints), pictures/, overview.png and scores.md.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from vit22b_dense.errors import run_tool
from vit22b_dense.files import write_atomically

TOOLS = Path(__file__).resolve().parent
CONFIG = TOOLS.parent / 'configs/demo/linear.py'
AXES = ['--backbone', 'vit22b_tiny', '--regime', 'scratch']


def run(title: str, *command: str | Path) -> None:
    """Run one of the tools, saying what it is for; stop the demo where it fails."""
    print(f'\n== {title}\n   {" ".join(map(str, command))}', flush=True)
    status = subprocess.run([sys.executable, TOOLS / command[0], *map(str, command[1:])], check=False).returncode
    if status:
        sys.exit(f'the demo stopped: {command[0]} ended with status {status}')


def overview(pictures: list[Path], target: Path) -> None:
    """Stack the first pictures into one."""
    images = [np.asarray(Image.open(path).convert('RGB')) for path in pictures]
    width = max(image.shape[1] for image in images)
    rows = [np.pad(i, ((0, 0), (0, width - i.shape[1]), (0, 0)), constant_values=255) for i in images]
    Image.fromarray(np.concatenate(rows)).save(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'), metavar='DIR')
    work_dir = parser.parse_args().work_dir
    start = time.time()
    data, train_dir = work_dir / 'data', work_dir / 'run'
    run('1/3 making the toy street', 'make_toy_street.py', data)
    run('2/3 training a tiny ViT22B from random weights', 'train.py', CONFIG, *AXES, '--data-root', data,
        '--work-dir', train_dir, '--resume')  # fmt: skip
    checkpoint = (train_dir / 'last_checkpoint').read_text()
    run('3/3 testing it', 'test.py', CONFIG, checkpoint, *AXES, '--data-root', data, '--work-dir', work_dir,
        '--show-dir', work_dir / 'pictures')  # fmt: skip
    scores = json.loads((work_dir / 'scores.json').read_text())['scores']
    text = (
        '| | mIoU | pixel accuracy |\n|---|---|---|\n'
        f'| tiny ViT22B, linear decoder | {scores["mIoU"]:.2f} | {scores["aAcc"]:.2f} |\n'
        f'| majority class everywhere | {scores["majority/mIoU"]:.2f} | {scores["majority/aAcc"]:.2f} |\n'
    )
    write_atomically(work_dir / 'scores.md', text)
    pictures = sorted((work_dir / 'pictures').rglob('*.png'))
    overview(pictures[:4], work_dir / 'overview.png')
    print(f'\n{text}\nin {(time.time() - start) / 60:.1f} minutes. Look at {work_dir / "overview.png"} and '
          f'{pictures[0].parent}')  # fmt: skip


if __name__ == '__main__':
    run_tool(main)
