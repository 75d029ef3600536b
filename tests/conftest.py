import gc
import os
import subprocess
import sys
from pathlib import Path

if 'PYTEST_XDIST_WORKER' in os.environ:  # before torch is imported: one thread per worker and per process it starts
    os.environ.setdefault('OMP_NUM_THREADS', '1')

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from PIL import Image

import vit22b_dense  # noqa: F401  (registers everything)
from vit22b_dense.demo.waymo import WaymoSet
from vit22b_dense.warm import run_warm
from vit22b_dense.waymo.prepare import Job, prepare
from vit22b_dense.waymo.types import Settings

REPO = Path(__file__).resolve().parent.parent
SHARED = REPO.parent / 'shared' / 'data'
torch.set_num_threads(1 if 'PYTEST_XDIST_WORKER' in os.environ else 2)
init_default_scope('mmseg')
gc.freeze()  # mmengine collects garbage at each data set that it builds: not among everything imported

# Files of few tests that take long: started first, so that the end does not wait for one of them.
LONG = {
    'test_processes',
    'test_depth_run',
    'test_fewshot_tool',
    'test_work_dir',
    'test_restore',
    'test_run',
    'test_mmseg_api',
}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True)
def _mmseg_scope():
    init_default_scope('mmseg')


@pytest.fixture
def shared_data():
    """A real sample folder by name; the test skips where it is absent."""

    def folder(name):
        path = SHARED / name
        if not path.exists():
            pytest.skip(f'the real sample {name} is not here (research licence, not part of the project)')
        return path

    return folder


def write_image(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make_ade(root: Path) -> Path:
    """A made data set in ADE20K's layout: 6 training and 2 validation images of 80x64 with labels 0..150."""
    rng = np.random.default_rng(0)
    for split, count in (('training', 6), ('validation', 2)):
        for i in range(count):
            label = np.kron(rng.integers(0, 151, (8, 10)), np.ones((8, 8))).astype(np.uint8)
            write_image(root / f'images/{split}/{i:02d}.jpg', np.stack([label, 255 - label, label // 2], -1))
            write_image(root / f'annotations/{split}/{i:02d}.png', label)
    return root


def make_kitti(root, sizes=((37, 124), (37, 122))):
    """Two drives of two cameras and two frames in KITTI's layout; only the second frame has annotated depth."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for n, (drive, (height, width)) in enumerate(zip(('0001', '0002'), sizes, strict=True)):
            name = f'2011_09_2{6 + n}_drive_{drive}_sync'
            for camera in ('image_02', 'image_03'):
                for frame in (4, 5):
                    image = rng.integers(0, 256, (height, width, 3), np.uint8)
                    write_image(root / f'raw/{name[:10]}/{name}/{camera}/data/{frame:010d}.png', image)
                depth = rng.uniform(3, 90, (height, width)) * (rng.random((height, width)) < 0.2)
                path = root / f'data_depth_annotated/{split}/{name}/proj_depth/groundtruth/{camera}/{5:010d}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((depth * 256).astype(np.uint16)).save(path)
    return root


def make_prepared_waymo(root: Path) -> Path:
    """A toy street of one training and one validation segment, 84x56, as tools/prepare_waymo.py leaves it."""
    WaymoSet(root / 'source', 1, 1, (56, 84)).write()
    for split in ('training', 'validation'):
        prepare(Job(root / 'source', root, split, Settings((1,), (1, 2, 3, 4, 5), (1,))), lambda line: None)
    return root


@pytest.fixture
def ade_root(tmp_path):
    return make_ade(tmp_path / 'ade')


@pytest.fixture(scope='session')
def mmseg_runs(tmp_path_factory):
    """A run of mmseg's ``train.py`` for each task: ``segmentation`` and ``depth``."""
    from mmseg_tools import TASKS, TrainedByMMSeg

    return {task: TrainedByMMSeg(leaf, tmp_path_factory.mktemp(task)) for task, leaf in TASKS.items()}


@pytest.fixture(scope='session')
def run_tool():
    """Run a script of the repository (or a path) and return the finished process; its output is text.

    In a warm process, or with ``fresh`` in an interpreter of its own.
    """

    def run(script, *arguments, check=True, env=None, fresh=False):
        command = [str(REPO / script), *map(str, arguments)]
        if fresh:
            interpreter = [sys.executable, *command]
            done = subprocess.run(interpreter, cwd=REPO, env=env, capture_output=True, text=True, check=False)
        else:
            done = run_warm(command, cwd=REPO, env=env)
        if check and done.returncode:
            pytest.fail(f'{command} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}')
        return done

    return run
