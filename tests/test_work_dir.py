"""A work dir is one run's: other runs are refused by the name of what differs, and nothing in it is overwritten."""

import ast
import fcntl
import hashlib
import os
import signal

import numpy as np
import pytest
import torch
from conftest import REPO, make_ade

from vit22b_dense.checkpoint import CheckpointError
from vit22b_dense.engine.config import default_work_dir, load_config
from vit22b_dense.engine.precision import use_mixed_precision
from vit22b_dense.engine.run import DenseRunner
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
def run_train(data_root, run_tool):
    def run(work_dir, *more, check=True):
        return run_tool(
            'tools/train.py', CONFIG, '--backbone', 'vit22b_tiny', '--data-root', data_root, '--no-validate',
            '--work-dir', work_dir, *more, '--cfg-options', *SMALL, check=check,
        )  # fmt: skip

    return run


@pytest.fixture(scope='module')
def finished(tmp_path_factory, run_train):
    work_dir = tmp_path_factory.mktemp('runs') / 'finished'
    run_train(work_dir)
    return work_dir


def claimed(work_dir, data_root, options=None, resume=True, amp=False, **axes):
    """The config of a training in a work dir, claimed as `tools/train.py` does it."""
    given = dict(token.split('=') for token in [*SMALL, *(options or [])])
    overrides = {key: ast.literal_eval(value) for key, value in given.items()}
    cfg = load_config(CONFIG, dict(dict(backbone='vit22b_tiny', data_root=str(data_root)), **axes), overrides)
    if amp:
        use_mixed_precision(cfg)
    cfg.work_dir, cfg.resume = str(work_dir), resume
    claim(cfg).close()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(resume=False), r'already contains a run \(iter_4.pth\)\. Continue it with --resume'),
        (dict(seed='1'), 'train_dataloader.dataset.dataset.seed is 0 there and 1 now'),
        (dict(fraction='1/2'), "dataset.fraction is '1' there and '1/2' now"),
        (dict(options=['train_dataloader.batch_size=3']), 'train_dataloader.batch_size is 2 there and 3 now'),
        (dict(options=['optim_wrapper.optimizer.lr=0.5']), r'optimizer.lr is [\de.-]+ there and 0.5 now'),
        (dict(backbone='vit22b_small'), "model.backbone.arch is 'tiny' there and 'small' now"),
        (dict(amp=True), "optim_wrapper.type is 'OptimWrapper' there and 'BFloat16OptimWrapper' now"),
    ],
)
def test_another_run_is_refused_and_nothing_overwritten(finished, data_root, changes, message):
    before = contents(finished)
    claimed(finished, data_root)  # the same run may go on
    with pytest.raises(WorkDirError, match=message):
        claimed(finished, data_root, **changes)
    assert contents(finished) == before


def test_the_tool_refuses_another_run_in_one_line(finished, run_train):
    before = contents(finished)
    done = run_train(finished, '--resume', '--seed', '1', check=False)
    assert done.returncode == 1
    assert 'seed is 0 there and 1 now' in done.stderr
    assert 'Traceback' not in done.stderr
    assert contents(finished) == before


def test_a_foreign_work_dir_is_refused(tmp_path, data_root):
    torch.save({}, tmp_path / 'iter_9.pth')
    with pytest.raises(WorkDirError, match=r'iter_9.pth of another configuration \(there is no linear.py\)'):
        claimed(tmp_path, data_root)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['.training', 'iter_9.pth']


def test_settings_that_do_not_matter_may_change(finished, data_root):
    claimed(finished, data_root, options=['default_hooks.logger.interval=1', "log_level='WARNING'"])


def test_a_work_dir_in_use_is_refused(finished, data_root):
    with open(finished / '.training', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(WorkDirError, match='another process is training there'):
            claimed(finished, data_root)


def test_the_lock_ends_with_its_process_though_a_worker_lives_on(tmp_path, run_tool):
    script = tmp_path / 'claim.py'
    script.write_text(
        'import os, sys, time; from mmengine.config import Config; from vit22b_dense.engine.work_dir import claim\n'
        f'cfg = Config(dict(work_dir={str(tmp_path)!r}, resume=False), filename={str(CONFIG)!r}, cfg_text="")\n'
        'claim(cfg)\n'
        'if worker := os.fork(): print(worker, flush=True)\n'
        'else: time.sleep(60)\n'
        'os._exit(0)\n'
    )
    worker = int(run_tool(script).stdout)
    try:
        cfg = load_config(CONFIG, dict(data_root=str(tmp_path)))
        cfg.work_dir, cfg.resume = str(tmp_path), False
        claim(cfg).close()
    finally:
        os.kill(worker, signal.SIGKILL)  # which fails if it lives no more


@pytest.mark.parametrize('lacking', ['optimizer', 'param_schedulers'])
def test_weights_alone_cannot_be_resumed(finished, lacking, tmp_path):
    checkpoint = torch.load(finished / 'iter_2.pth', weights_only=False)
    torch.save({k: v for k, v in checkpoint.items() if k != lacking}, tmp_path / 'iter_2.pth')
    runner = DenseRunner.__new__(DenseRunner)
    runner._resume, runner.model, runner.param_schedulers = True, None, []
    with pytest.raises(CheckpointError, match=f'iter_2.pth: cannot be resumed, it lacks {lacking}'):
        runner.load_checkpoint(str(tmp_path / 'iter_2.pth'))


@pytest.mark.parametrize('told', [None, '/elsewhere/iter_1.pth'])
def test_the_latest_checkpoint_counts_whatever_last_checkpoint_says(finished, told, tmp_path):
    (tmp_path / 'iter_2.pth').write_bytes((finished / 'iter_2.pth').read_bytes())
    if told:
        (tmp_path / 'last_checkpoint').write_text(told)
    assert find_checkpoint(tmp_path).name == 'iter_2.pth'


def test_resuming_needs_no_last_checkpoint_and_survives_a_move(finished, run_train, tmp_path):
    """Killed between the two writes: iter_2.pth is there and last_checkpoint is not."""
    work_dir = tmp_path / 'moved'
    work_dir.mkdir()
    for name in ('linear.py', 'iter_2.pth'):
        (work_dir / name).write_bytes((finished / name).read_bytes())
    done = run_train(work_dir, '--resume')
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
    assert 'load_from=None' in (finished / 'linear.py').read_text()
    assert str(finished / 'iter_4.pth') in (finished / 'linear_test.py').read_text()


def test_weights_have_a_name_by_their_content_wherever_they_lie(tmp_path):
    content = np.random.default_rng(0).bytes(3 * 10**5)
    changed = {at: content[:at] + b'xx' + content[at + 2 :] for at in (0, 150_000, len(content) - 2)}
    folders = {}
    for name, data in {'a': content, 'copy': content, **changed}.items():
        (tmp_path / str(name)).mkdir()
        (tmp_path / str(name) / 'model.safetensors').write_bytes(data)
        folders[name] = default_work_dir(CONFIG, dict(weights=str(tmp_path / str(name) / 'model.safetensors')))
    assert folders.pop('copy') == folders['a']
    assert len(set(folders.values())) == 4
    assert default_work_dir(CONFIG, dict(weights='facebook/dinov2-small')).endswith('facebook-dinov2-small')
    (tmp_path / 'only_a_config').mkdir()
    assert default_work_dir(CONFIG, dict(weights=str(tmp_path / 'only_a_config'))).endswith('_only_a_config')


def test_an_unwritable_work_dir_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    cfg = load_config(CONFIG, {})
    cfg.work_dir, cfg.resume = str(tmp_path / 'file/run'), False
    with pytest.raises(WorkDirError, match='cannot be written'):
        claim(cfg)
