"""One boundary: what is wrong outside the program is one line with its name, what is wrong inside a traceback."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
from conftest import REPO
from torch._utils import ExceptionWrapper

from vit22b_dense.checkpoint import CheckpointError
from vit22b_dense.errors import UserError, run_tool


def raising(error):
    def main():
        raise error

    return main


def wrapped(error):
    """As a data loader hands on what one of its workers raised."""
    try:
        raise error
    except Exception:
        wrapper = ExceptionWrapper(where='in DataLoader worker process 0')
    try:
        wrapper.reraise()
    except Exception as handed_on:
        return handed_on


@pytest.mark.parametrize(
    ('error', 'line'),
    [
        (UserError('a.png: bad'), 'a.png: bad'),
        (wrapped(UserError('a.png: bad')), 'a.png: bad'),
        (wrapped(CheckpointError('a.pth: bad')), 'a.pth: bad'),
        (OSError(errno.ENOSPC, 'No space', '/x/a'), '/x/a: the disk is full: make room, or name another place'),
        (PermissionError(errno.EACCES, 'Permission', '/x'), '/x: not permitted: check its permissions'),
        (NotADirectoryError(errno.ENOTDIR, 'No', '/x/y'), '/x/y: a part of this path is a file, not a folder'),
        (wrapped(OSError(errno.EIO, 'Input/output error', '/x/a.jpg')), "[Errno 5] Input/output error: '/x/a.jpg'"),
        (MemoryError(), 'the memory of the machine does not suffice (out of memory)'),
        (
            RuntimeError('Connection closed by peer [::1]:5'),
            'another process of this run has ended, or does not answer',
        ),
        (RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. '), 'DataLoader worker (pid 7) is'),
    ],
)
def test_what_is_wrong_outside_is_one_line(error, line, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tool'])
    with pytest.raises(SystemExit) as left:
        run_tool(raising(error))
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f'error: {line}')
    assert said.count('\n') == 1
    monkeypatch.setattr(sys, 'argv', ['tool', '--debug'])
    with pytest.raises(type(error)):
        run_tool(raising(error))


@pytest.mark.parametrize('error', [KeyError('x'), RuntimeError('shape'), ValueError('x'), pickle.PickleError('x')])
def test_what_is_wrong_inside_keeps_its_traceback(error, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tool'])
    with pytest.raises(type(error)):
        run_tool(raising(error))


def test_an_interrupt_while_importing_is_quiet_and_works_again_afterwards(tmp_path):
    (tmp_path / 'mmseg.py').write_text('import time; print("importing", flush=True); time.sleep(60)')
    env = dict(os.environ, PYTHONPATH=f'{tmp_path}{os.pathsep}{REPO}')
    command = [sys.executable, REPO / 'tools/train.py', 'config.py']
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while 'importing' not in process.stdout.readline():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert 'Traceback' not in said
    code = (
        'import vit22b_dense_interrupt, signal, sys\n'
        'sys.modules["vit22b_dense"] = type(sys)("vit22b_dense"); sys.modules["vit22b_dense"].__path__ = '
        f'["{REPO}/vit22b_dense"]\n'
        'from vit22b_dense.errors import run_tool\n'
        'run_tool(lambda: signal.raise_signal(signal.SIGINT))'
    )
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, 'interrupted\n')
