"""A work dir is one run's: other runs are refused by the name of what differs, and nothing in it is overwritten."""

import fcntl
import hashlib
import os
import subprocess
import sys

import pytest
import torch
from conftest import REPO, make_ade

from vit22b_dense.engine.config import default_work_dir, load_config
from vit22b_dense.engine.work_dir import WorkDirError, claim, find_checkpoint

CONFIG = REPO / 'configs/demo/linear.py'
SMALL = [
    'train_cfg.max_iters=4', 'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False', 'default_hooks.checkpoint.interval=2',
    'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False',
]  # fmt: skip


def contents(folder) -> dict:
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob('*')) if p.is_file()}


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    return make_ade(tmp_path_factory.mktemp('data') / 'ade')


@pytest.fixture(scope='module')
def run_train(data_root):
    def run(work_dir, *more, options=(), root=data_root):
        command = [
            sys.executable, REPO / 'tools/train.py', CONFIG, '--backbone', 'vit22b_tiny', '--data-root', root,
            '--no-validate', '--work-dir', work_dir, *more, '--cfg-options', *SMALL, *options,
        ]  # fmt: skip
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope='module')
def finished(tmp_path_factory, run_train):
    work_dir = tmp_path_factory.mktemp('runs') / 'finished'
    done = run_train(work_dir)
    assert done.returncode == 0, done.stderr[-3000:]
    return work_dir


@pytest.mark.parametrize(
    ('more', 'options', 'message'),
    [
        ([], [], r'holds a run already \(iter_4.pth\)\. Go on with it by --resume'),
        (['--resume', '--seed', '1'], [], 'train_dataloader.dataset.dataset.seed is 0 there and 1 now'),
        (['--resume', '--fraction', '1/2'], [], "dataset.fraction is '1' there and '1/2' now"),
        (['--resume'], ['train_dataloader.batch_size=3'], 'train_dataloader.batch_size is 2 there and 3 now'),
        (['--resume'], ['optim_wrapper.optimizer.lr=0.5'], r'optimizer.lr is [\de.-]+ there and 0.5 now'),
        (['--resume', '--backbone', 'vit22b_small'], [], "model.backbone.arch is 'tiny' there and 'small' now"),
        (['--resume', '--amp'], [], "optim_wrapper.type is 'OptimWrapper' there and 'BFloat16OptimWrapper' now"),
    ],
)  # fmt: skip
def test_another_run_is_refused_and_nothing_overwritten(finished, run_train, more, options, message):
    import re

    before = contents(finished)
    done = run_train(finished, *more, options=options)
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr
    assert 'Traceback' not in done.stderr
    assert contents(finished) == before


def test_a_foreign_work_dir_is_refused(tmp_path, run_train):
    torch.save({}, tmp_path / 'iter_9.pth')
    done = run_train(tmp_path, '--resume')
    assert done.returncode == 1
    assert 'iter_9.pth of another configuration (there is no linear.py)' in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ['.training', 'iter_9.pth']


def test_settings_that_do_not_matter_may_change(finished, run_train):
    done = run_train(finished, '--resume', options=['default_hooks.logger.interval=1', 'log_level=WARNING'])
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_work_dir_in_use_is_refused(finished, run_train):
    with open(finished / '.training', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run_train(finished, '--resume')
    assert done.returncode == 1
    assert 'another process trains there' in done.stderr


def test_the_lock_ends_with_its_process_though_a_worker_lives_on(tmp_path):
    code = (
        'import os, sys, time; from mmengine.config import Config; from vit22b_dense.engine.work_dir import claim\n'
        f'cfg = Config(dict(work_dir={str(tmp_path)!r}, resume=False), filename={str(CONFIG)!r}, cfg_text="")\n'
        'claim(cfg)\n'
        'if os.fork() == 0: print("worker", flush=True); time.sleep(60)\n'
        'else: time.sleep(1); os._exit(0)\n'
    )
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert process.wait(120) == 0
    cfg = load_config(CONFIG, dict(data_root=str(tmp_path)))
    cfg.work_dir, cfg.resume = str(tmp_path), False
    os.close(claim(cfg))
    process.stdout.close()
    subprocess.run(['pkill', '-f', str(tmp_path)], check=False)


def test_weights_alone_cannot_be_resumed(finished, run_train, tmp_path):
    work_dir = tmp_path / 'run'
    work_dir.mkdir()
    (work_dir / 'linear.py').write_text((finished / 'linear.py').read_text())
    checkpoint = torch.load(finished / 'iter_2.pth', weights_only=False)
    for lacking in ('optimizer', 'param_schedulers'):
        torch.save({k: v for k, v in checkpoint.items() if k != lacking}, work_dir / 'iter_2.pth')
        done = run_train(work_dir, '--resume')
        assert done.returncode == 1
        assert f'iter_2.pth: cannot be resumed, it lacks {lacking}' in done.stderr
        assert not (work_dir / 'iter_4.pth').exists()


def test_resuming_needs_no_last_checkpoint_and_survives_a_move(finished, run_train, tmp_path):
    """Killed between the two writes, iter_2.pth is there and last_checkpoint is not, or tells of an older one."""
    for told in (None, '/elsewhere/iter_1.pth'):
        work_dir = tmp_path / f'run{bool(told)}'
        work_dir.mkdir()
        for name in ('linear.py', 'iter_2.pth'):
            (work_dir / name).write_bytes((finished / name).read_bytes())
        if told:
            (work_dir / 'last_checkpoint').write_text(told)
        assert find_checkpoint(work_dir).name == 'iter_2.pth'
        done = run_train(work_dir, '--resume')
        assert done.returncode == 0, done.stderr[-2000:]
        assert 'resumed epoch: 0, iter: 2' in done.stdout + done.stderr
        ours, theirs = (torch.load(f / 'iter_4.pth', weights_only=False)['state_dict'] for f in (work_dir, finished))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_testing_leaves_the_trainings_config_alone(finished, data_root, run_tool):
    before = contents(finished)
    run_tool(
        'tools/test.py', CONFIG, finished / 'iter_4.pth', '--backbone', 'vit22b_tiny', '--data-root', data_root,
        '--work-dir', finished, '--cfg-options', *SMALL,
    )  # fmt: skip
    after = contents(finished)
    assert {path: after[path] for path in before} == before
    assert 'load_from = None' in (finished / 'linear.py').read_text()
    assert str(finished / 'iter_4.pth') in (finished / 'linear_test.py').read_text()


def test_equal_names_of_weights_have_folders_of_their_own(tmp_path):
    folders = set()
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'model.safetensors').write_bytes(b'')
        folders.add(default_work_dir(CONFIG, dict(weights=str(tmp_path / name / 'model.safetensors'))))
    assert len(folders) == 2


def test_an_unwritable_work_dir_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    cfg = load_config(CONFIG, {})
    cfg.work_dir, cfg.resume = str(tmp_path / 'file/run'), False
    with pytest.raises(WorkDirError, match='cannot be written'):
        claim(cfg)
