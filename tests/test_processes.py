"""Two processes with gloo, and mixed precision on the CPU: the same scores through the tools."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, make_ade, write_image

CONFIG = REPO / 'configs/demo/linear.py'
SIZE = ['train_cfg.max_iters=30', 'model.decode_head.dropout_ratio=0.0', 'train_dataloader.num_workers=0',
        *(f'{loader}_dataloader.persistent_workers=False' for loader in ('train', 'val', 'test')),
        *(f'{loader}_dataloader.num_workers=0' for loader in ('val', 'test'))]  # fmt: skip


def call(tool, *arguments, processes=1, batch=4, check=True):
    command = [sys.executable]
    if processes > 1:
        command += ['-m', 'torch.distributed.run', f'--nproc_per_node={processes}', '--master_port=0', '--standalone']
    command += [REPO / f'tools/{tool}.py', CONFIG, *arguments]
    command += ['--launcher', 'pytorch'] if processes > 1 else []
    command += ['--cfg-options', *SIZE, f'train_dataloader.batch_size={batch // processes}']
    env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=env, cwd=REPO)
    if check and done.returncode:
        pytest.fail(f'{command} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}')
    return done


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    """Pictures whose colour tells the class, and three to test on: two processes do not share them evenly."""
    root = make_ade(tmp_path_factory.mktemp('data') / 'ade')
    rng = np.random.default_rng(0)
    values = np.array([2, 3, 5, 7, 12, 13, 21], np.uint8)
    for split, count in (('training', 6), ('validation', 3)):
        for i in range(count):
            classes = np.kron(rng.integers(0, 7, (3, 4)), np.ones((28, 28))).astype(int)
            image = np.stack([classes * 36, 255 - classes * 36, classes % 3 * 80], -1).astype(np.uint8)
            write_image(root / f'images/{split}/{i:02d}.jpg', image)
            write_image(root / f'annotations/{split}/{i:02d}.png', values[classes])
    return root


def train_and_test(folder, data_root, *more, processes=1):
    axes = ['--backbone', 'vit22b_tiny', '--regime', 'scratch', '--data-root', data_root]
    call('train', *axes, '--work-dir', folder, *more, processes=processes)
    call('test', folder / 'iter_30.pth', *axes, '--work-dir', folder / 'test', *more, processes=processes)
    return json.loads((folder / 'test/scores.json').read_text())


@pytest.fixture(scope='module')
def alone(tmp_path_factory, data_root):
    folder = tmp_path_factory.mktemp('alone')
    return folder, train_and_test(folder, data_root)


def test_two_processes_score_as_one(alone, data_root, tmp_path):
    """The same draws: a batch of 4 by one process, or of 2 by each of two, from the same seeded stream."""
    folder, expected = alone
    axes = ['--backbone', 'vit22b_tiny', '--regime', 'scratch', '--data-root', data_root]
    call('test', folder / 'iter_30.pth', *axes, '--work-dir', tmp_path / 'two', processes=2)
    found = json.loads((tmp_path / 'two/scores.json').read_text())
    assert found['scores'] == expected['scores']
    assert found['images'] == 3
    assert [e['score'] for e in found['examples']] == [e['score'] for e in expected['examples']]
    assert len(found['examples']) == 3
    trained = train_and_test(tmp_path / 'trained', data_root, processes=2)
    assert expected['scores']['mIoU'] > 40
    assert trained['scores']['mIoU'] == pytest.approx(expected['scores']['mIoU'], abs=0.5)


def test_mixed_precision_trains_validates_and_tests(alone, data_root, tmp_path):
    found = train_and_test(tmp_path, data_root, '--amp')
    assert found['scores']['mIoU'] == pytest.approx(alone[1]['scores']['mIoU'], abs=0.5)
    assert 'BFloat16OptimWrapper' in (tmp_path / 'linear.py').read_text()


def test_several_processes_need_torchrun(data_root, tmp_path):
    done = call('train', '--data-root', data_root, '--work-dir', tmp_path, '--launcher', 'slurm', check=False)
    assert done.returncode == 1
    assert '--launcher slurm: it has not started this process' in done.stderr
    assert 'Traceback' not in done.stderr
