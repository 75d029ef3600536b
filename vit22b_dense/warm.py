"""Running scripts in processes that have their imports behind them.

Importing torch, mmseg and the package takes seconds: most of a short run. Python's fork server imports them once and
forks a copy of itself for each script. It has computed nothing by then, so no thread or lock of torch is copied.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO

import torch

# The package and what its runs import late.
PRELOADED = [
    'vit22b_dense', 'mmseg.apis', 'mmseg.evaluation', 'matplotlib.figure', 'matplotlib.backends.backend_agg',
    'torch._dynamo',
]  # fmt: skip


class _Descriptor:
    """The number of an open file, which a process is sent with the request for it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple:
        return _received, (DupFd(self.number),)


def _received(sent: DupFd) -> _Descriptor:
    return _Descriptor(sent.detach())


def warm_context() -> BaseContext:
    """A context of `multiprocessing` whose processes have their imports behind them.

    With CUDA, each process imports everything itself: importing mmengine queries the devices, and a process forked
    after that cannot use them.
    """
    if torch.cuda.is_available():
        return multiprocessing.get_context('spawn')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOADED)
    return context


def start_warm(
    command: Sequence[str | Path],
    *,
    stdout: IO | None = None,
    stderr: IO | None = None,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    start_new_session: bool = False,
) -> BaseProcess:
    """Start a Python script as ``subprocess.Popen([sys.executable, *command])`` would, without the wait for imports.

    Handlers registered with `atexit` are not called. Variables that libraries read while they are loaded, such as
    ``OMP_NUM_THREADS``, have the value of the first call.

    Args:
        command: the script and its arguments.
        stdout, stderr: open files; those of this process by default.
        cwd, env: folder and environment of the process; this one's by default.
        pass_fds: numbers of open files that are to stay open in the process.
        start_new_session: make it the leader of a session, out of reach of an interrupt from the terminal.

    Returns:
        The running process, with ``pid``, ``join(timeout)``, ``exitcode``, ``terminate()`` and ``kill()``.
    """
    sys.stdout.flush()
    streams = [_Descriptor(file.fileno() if file else number) for number, file in ((1, stdout), (2, stderr))]
    passed = [_Descriptor(number) for number in pass_fds]
    surroundings = (os.fspath(cwd or os.getcwd()), dict(os.environ if env is None else env), start_new_session)
    process = warm_context().Process(target=_run, args=([*map(str, command)], streams, passed, *surroundings))
    process.start()
    return process


def run_warm(
    command: Sequence[str | Path], *, cwd: str | Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end and return its status and output as text: see `start_warm`."""
    with tempfile.TemporaryFile('w+') as stdout, tempfile.TemporaryFile('w+') as stderr:
        process = start_warm(command, stdout=stdout, stderr=stderr, cwd=cwd, env=env)
        process.join()
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read())
        return subprocess.CompletedProcess(command, process.exitcode, *texts)


def _run(
    command: list[str],
    streams: list[_Descriptor],
    passed: list[_Descriptor],  # received, so that they are open; nothing here uses them
    cwd: str,
    env: dict[str, str],
    new_session: bool,
) -> None:
    """Become the script, in the copy of the fork server."""
    if new_session:
        os.setsid()
    # What the imports printed was printed by the fork server and is not this script's.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout.flush()
    for number, stream in enumerate(streams, 1):
        os.dup2(stream.number, number)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    multiprocessing.set_start_method(None, force=True)  # the platform's own, not the fork server
    sys.argv = command
    runpy.run_path(command[0], run_name='__main__')
