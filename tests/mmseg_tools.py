"""mmseg's own scripts, as they lie in its wheel, run in this process: importing everything takes seconds."""

import runpy
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import mmseg
import numpy as np
import pytest
import torch
from conftest import REPO, make_ade, make_kitti, make_prepared_waymo, write_image
from mmengine.registry import DefaultScope
from mmengine.utils import ManagerMixin

TOOLS = Path(mmseg.__file__).parent / '.mim' / 'tools'
CONFIGS = REPO / 'configs'
LEAVES = sorted(str(p.relative_to(CONFIGS)) for p in CONFIGS.glob('[!_]*/*.py'))
SMALL = [
    'train_cfg.max_iters=1',
    'train_cfg.val_interval=1',
    'train_dataloader.batch_size=1',
    *(f'{loader}_dataloader.num_workers=0' for loader in ('train', 'val', 'test')),
    *(f'{loader}_dataloader.persistent_workers=False' for loader in ('train', 'val', 'test')),
]


def run_script(script: Path, *arguments: object, **axes: object) -> None:
    """Run a script unchanged with axes as environment variables, as ``python SCRIPT ARGUMENTS`` would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [str(script), *map(str, arguments)])
        for axis, value in {'backbone': 'vit22b_tiny', **axes}.items():
            patch.setenv(f'VIT22B_{axis.upper()}', str(value))
        forget(ManagerMixin)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # of passes this small, two threads on a busy machine make one that is slower
        try:
            runpy.run_path(str(script), run_name='__main__')
        except SystemExit as end:
            if end.code:
                pytest.fail(f'{script} ended with {end.code}')
        finally:
            torch.set_num_threads(threads)
            plt.close('all')


def forget(kind: type[ManagerMixin]) -> None:
    """Drop mmengine's loggers, visualizers and so on, which a process of its own would not have yet."""
    kind._instance_dict.clear()
    for derived in kind.__subclasses__():
        if derived is not DefaultScope:
            forget(derived)


def make_listed(root: Path, sets: str, labels: dict[str, int], lists: dict[str, str]) -> Path:
    """Two images in Pascal's layout: label folders with their highest value, and split files."""
    rng = np.random.default_rng(0)
    for name in ('a', 'b'):
        write_image(root / f'JPEGImages/{name}.jpg', rng.integers(0, 256, (60, 80, 3), np.uint8))
        for folder, high in labels.items():
            write_image(root / folder / f'{name}.png', rng.integers(0, high + 1, (60, 80)).astype(np.uint8))
    for split, content in lists.items():
        path = root / f'ImageSets/{sets}/{split}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def make_data(leaf: str, root: Path) -> Path:
    """Tiny data for a config."""
    folder = leaf.split('/')[0]
    if folder == 'kitti':
        return make_kitti(root)
    if folder == 'waymo' or leaf in ('demo/linear_depth.py', 'demo/dpt.py'):
        return make_prepared_waymo(root)
    if folder == 'pascal_voc12':
        labels = dict(SegmentationClass=20, SegmentationClassAug=20)
        return make_listed(root, 'Segmentation', labels, dict(train='a\n', val='b\n', aug='b\n'))
    if folder == 'pascal_context':
        return make_listed(
            root, 'SegmentationContext', dict(SegmentationClassContext=59), dict(train='a\n', val='b\n')
        )
    if folder == 'camvid':
        for split in ('train', 'val'):
            write_image(root / f'images/{split}/a.jpg', np.zeros((60, 80, 3), np.uint8))
            write_image(root / f'annotations/{split}/a.png', np.ones((60, 80), np.uint8))
        return root
    return make_ade(root)
