"""mmseg's own scripts, as they lie in its wheel, run in this process: importing everything takes seconds."""

import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import mmseg
import numpy as np
import pytest
import torch
from conftest import REPO, make_ade, make_kitti, make_prepared_waymo, write_image
from mmengine.registry import DefaultScope
from mmengine.utils import ManagerMixin
from safetensors.torch import save_file

from vit22b_dense import ViT22B

TOOLS = Path(mmseg.__file__).parent / '.mim' / 'tools'
CONFIGS = REPO / 'configs'
# of dense prediction: mmseg has no classifier
LEAVES = sorted(str(p.relative_to(CONFIGS)) for p in CONFIGS.glob('[!_]*/*.py') if p.parent.name != 'pretrain')
TASKS = {'segmentation': 'demo/linear.py', 'depth': 'demo/linear_depth.py'}
SMALL = [
    'train_cfg.max_iters=1',
    'train_cfg.val_interval=1',
    'train_dataloader.batch_size=1',
    *(f'{loader}_dataloader.num_workers=0' for loader in ('train', 'val', 'test')),
    *(f'{loader}_dataloader.persistent_workers=False' for loader in ('train', 'val', 'test')),
]


@contextmanager
def one_thread() -> Iterator[None]:
    """Of passes this small, two threads on a busy machine make one that is ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_script(script: Path, *arguments: object, **axes: object) -> None:
    """Run a script unchanged with axes as environment variables, as ``python SCRIPT ARGUMENTS`` would."""
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [str(script), *map(str, arguments)])
        for axis, value in {'backbone': 'vit22b_tiny', **axes}.items():
            patch.setenv(f'VIT22B_{axis.upper()}', str(value))
        forget(ManagerMixin)
        try:
            runpy.run_path(str(script), run_name='__main__')
        except SystemExit as end:
            if end.code:
                pytest.fail(f'{script} ended with {end.code}')
        finally:
            plt.close('all')


def forget(kind: type[ManagerMixin]) -> None:
    """Drop mmengine's loggers, visualizers and so on, which a process of its own would not have yet."""
    kind._instance_dict.clear()
    for derived in kind.__subclasses__():
        if derived is not DefaultScope:
            forget(derived)


class TrainedByMMSeg:
    """A frozen run of mmseg's ``train.py``, one iteration long.

    Attributes:
        data, weights, folder: of the data, of the backbone's weights, of the run.
        config, dumped: the config, and the one that the run has dumped, which stands alone.
        checkpoint: of the decoder, with a reference to the backbone. Noise makes the predictions of an image vary.
        images: the validation images.
    """

    def __init__(self, leaf: str, folder: Path) -> None:
        self.data, self.config = make_data(leaf, folder / 'data'), CONFIGS / leaf
        self.weights, self.folder = folder / 'weights.safetensors', folder
        torch.manual_seed(5)
        save_file(ViT22B('tiny').state_dict(), self.weights)
        self.run(TOOLS / 'train.py', '--work-dir', folder, weights=self.weights)
        self.dumped, self.checkpoint = folder / self.config.name, folder / 'iter_1.pth'
        checkpoint = torch.load(self.checkpoint, weights_only=False)
        for tensor in checkpoint['state_dict'].values():
            tensor.add_(torch.randn_like(tensor) * 0.1)
        torch.save(checkpoint, self.checkpoint)
        self.images = sorted(path for path in self.data.rglob('*.jpg') if 'validation' in str(path))

    def run(self, script: Path, *arguments: object, config: Path | None = None, **axes: object) -> None:
        """Run a script that takes ``--cfg-options``."""
        run_script(script, config or self.config, *arguments, '--cfg-options', *SMALL, data_root=self.data, **axes)


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


def make_depth_list(path: Path, pairs: list[tuple[str, str]]) -> None:
    """A list of images and depth maps with a focal length, as depth papers share them."""
    path.write_text(''.join(f'{image} {depth} 721.5\n' for image, depth in pairs))


def make_listed_kitti(root: Path) -> Path:
    """KITTI's layout with Eigen's lists: one drive to train on, one to test on."""
    make_kitti(root)
    for split, date, drive in (('train', '2011_09_26', '0001'), ('test', '2011_09_27', '0002')):
        name = f'{date}_drive_{drive}_sync'
        image = f'{date}/{name}/image_02/data/0000000005.png'
        make_depth_list(
            root / f'kitti_eigen_{split}.txt',
            [(image, f'{name}/proj_depth/groundtruth/image_02/0000000005.png'), (image, 'None')],
        )
    return root


def make_listed_nyu(root: Path) -> Path:
    """NYU's layout with its lists: two frames to train on, two to test on."""
    rng = np.random.default_rng(0)
    for split, folder in (('train', 'sync'), ('test', 'official_splits/test')):
        pairs = [(f'/kitchen/rgb_{i:05d}.jpg', f'/kitchen/sync_depth_{i:05d}.png') for i in (7, 45)]
        for image, depth in pairs:
            write_image(root / folder / image[1:], rng.integers(0, 256, (48, 64, 3), np.uint8))
            write_image(root / folder / depth[1:], rng.integers(0, 9_000, (48, 64)).astype(np.uint16))
        make_depth_list(root / f'nyu_{split}.txt', pairs)
    return root


def make_data(leaf: str, root: Path) -> Path:
    """Tiny data for a config."""
    folder = leaf.split('/')[0]
    if folder == 'kitti':
        return make_listed_kitti(root)
    if folder == 'nyu':
        return make_listed_nyu(root)
    if folder == 'cityscapes':
        for split in ('train', 'val'):
            stem = f'{split}/bonn/bonn_000001_000019'
            write_image(root / f'leftImg8bit/{stem}_leftImg8bit.png', np.zeros((60, 80, 3), np.uint8))
            write_image(root / f'gtFine/{stem}_gtFine_labelTrainIds.png', np.ones((60, 80), np.uint8))
        return root
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
