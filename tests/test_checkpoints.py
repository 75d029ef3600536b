"""Checkpoints of a run: whole or absent, whatever happens while they are written."""

import builtins
import errno
import os
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.logging import MessageHub
from torch import nn

from vit22b_dense.checkpoint import CheckpointError
from vit22b_dense.engine import AtomicCheckpointHook, CheckpointFitHook
from vit22b_dense.files import write_atomically


@pytest.mark.parametrize('failing', ['write', 'fsync', 'replace'])
def test_a_failed_write_leaves_the_former_file_and_no_remains(tmp_path, monkeypatch, failing):
    path = tmp_path / 'file.pth'
    write_atomically(path, b'former')

    def fail(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    if failing == 'write':
        real_open = builtins.open

        def open_full(name, *args):
            opened = real_open(name, *args)
            return _Full(opened, fail) if '.part' in str(name) else opened

        monkeypatch.setattr(builtins, 'open', open_full)
    else:
        monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match='No space left'):
        write_atomically(path, b'newer')
    monkeypatch.undo()
    assert path.read_bytes() == b'former'
    assert [p.name for p in tmp_path.iterdir()] == ['file.pth']


class _Full:
    """A file on a full disk."""

    def __init__(self, file, fail):
        self.file, self.write = file, fail

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def test_the_backend_is_the_one_that_the_hook_asks_for(tmp_path):
    backend = get_file_backend(backend_args=dict(backend='atomic'))
    backend.put(b'abc', tmp_path / 'deep/x')
    backend.put_text('ä', tmp_path / 'deep/y')
    assert (tmp_path / 'deep/x').read_bytes() == b'abc'
    assert (tmp_path / 'deep/y').read_bytes() == 'ä'.encode()


class Killed(BaseException):
    pass


@pytest.mark.parametrize('keep', [1, 2])
@pytest.mark.parametrize('moment', ['before', 'after'])
def test_killed_at_any_moment_the_last_checkpoint_is_there(tmp_path, keep, moment):
    """However few are kept, last_checkpoint names a file that exists while the next one is being written."""

    class Runner(SimpleNamespace):
        def save_checkpoint(self, out_dir, name, **options):
            assert options['backend_args'] == dict(backend='atomic')
            if self.kill and moment == 'before':
                raise Killed
            Path(out_dir, name).write_text('weights')
            if self.kill:
                raise Killed

    runner = Runner(work_dir=str(tmp_path), message_hub=MessageHub.get_instance(f'killed{keep}{moment}'), kill=False)
    runner.model = nn.Linear(1, 1)
    hook = AtomicCheckpointHook(interval=1, max_keep_ckpts=keep)
    hook.out_dir, hook.file_backend, hook.keep_ckpt_ids = (
        str(tmp_path),
        get_file_backend(str(tmp_path)),
        deque(maxlen=keep),
    )
    for step in (1, 2, 3):
        hook._save_checkpoint_with_step(runner, step, {})
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == [f'iter_{i}.pth' for i in range(4 - keep, 4)]
    runner.kill = True
    with pytest.raises(Killed):
        hook._save_checkpoint_with_step(runner, 4, {})
    last = Path((tmp_path / 'last_checkpoint').read_text())
    assert last.name == 'iter_3.pth'
    assert last.exists()


def test_fit_hook_refuses_or_loads_what_fits(tmp_path):
    runner = SimpleNamespace(model=nn.Linear(2, 3), _load_from='w.pth', work_dir=str(tmp_path))
    good = dict(state_dict=nn.Linear(2, 3).state_dict())
    CheckpointFitHook().after_load_checkpoint(runner, good)
    bad = dict(state_dict=dict(weight=torch.zeros(3, 2), bias=torch.zeros(4)))
    with pytest.raises(CheckpointError, match=r'w\.pth does not fit Linear'):
        CheckpointFitHook().after_load_checkpoint(runner, bad)
    CheckpointFitHook(allow_partial=True).after_load_checkpoint(runner, bad)
    assert list(bad['state_dict']) == ['weight']
