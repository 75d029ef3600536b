"""Every config runs unchanged with the train.py and test.py that lie in mmseg's wheel."""

import os
import subprocess
import sys
from pathlib import Path

import mmseg
import numpy as np
import pytest
from conftest import REPO, make_ade, make_kitti, make_prepared_waymo, write_image
from PIL import Image

LEAVES = sorted(str(p.relative_to(REPO / 'configs')) for p in (REPO / 'configs').glob('[!_]*/*.py'))
TOOLS = Path(mmseg.__file__).parent / '.mim' / 'tools'
SMALL = [
    'train_cfg.max_iters=1',
    'train_cfg.val_interval=1',
    'train_dataloader.batch_size=1',
    *(f'{loader}_dataloader.num_workers=0' for loader in ('train', 'val', 'test')),
    *(f'{loader}_dataloader.persistent_workers=False' for loader in ('train', 'val', 'test')),
]


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
    if folder in ('camvid', 'own_data'):
        for split in ('train', 'val'):
            write_image(root / f'images/{split}/a.jpg', np.zeros((60, 80, 3), np.uint8))
            write_image(root / f'annotations/{split}/a.png', np.ones((60, 80), np.uint8))
        return root
    return make_ade(root)


@pytest.mark.slow
@pytest.mark.parametrize('leaf', LEAVES)
def test_mmsegs_scripts_run_every_config(leaf, tmp_path):
    env = dict(os.environ, VIT22B_BACKBONE='vit22b_tiny', VIT22B_DATA_ROOT=str(make_data(leaf, tmp_path / 'data')))
    config, work_dir, pictures = REPO / 'configs' / leaf, tmp_path / 'run', tmp_path / 'pictures'
    for command in (
        [TOOLS / 'train.py', config, '--work-dir', work_dir],
        [TOOLS / 'test.py', config, work_dir / 'iter_1.pth', '--work-dir', work_dir, '--show-dir', pictures],
    ):
        done = subprocess.run(
            [sys.executable, *command, '--cfg-options', *SMALL], env=env, cwd=REPO, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    assert all(Image.open(path).size[0] > 200 for path in pictures.rglob('*.png'))
    assert any(pictures.rglob('*.png'))
