"""Errors that the user can fix: they name the file or value and say what to do."""

import argparse
import errno
import gc
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .ranks import first_says

DEBUG = '--debug'
ADVICE = {
    errno.ENOSPC: 'the disk is full: make room, or name another place',
    errno.EDQUOT: 'the quota is used up: make room, or name another place',
    errno.EFBIG: 'larger than the system lets a file be: raise its limit (ulimit -f), or name another place',
    errno.EROFS: 'the file system is read-only: name another place',
    errno.EACCES: 'not permitted: check its permissions, or name another place',
    errno.EPERM: 'not permitted: check its permissions, or name another place',
    errno.EEXIST: 'something else is there already: remove it, or name another place',
    errno.ENOTDIR: 'a part of this path is a file, not a folder: name another place',
    errno.EISDIR: 'a folder, where a file is needed: name another one',
    errno.ENOENT: 'no such file or folder: check the name',
    errno.ENAMETOOLONG: 'the name is too long: choose a shorter one',
    errno.EIO: 'the disk reports an error: check it, and copy the file again',
}
# How PyTorch reports that a process which this one waits for is gone.
PEER_LOST = (
    'Connection closed by peer',
    'Connection reset by peer',
    'Timed out waiting',
    'NCCL communicator was aborted',
)


class UserError(ValueError):
    """Something outside the program is wrong; the message is all that the user needs.

    Attributes:
        status: exit status of the tool.
    """

    status = 1


class ToolParser(argparse.ArgumentParser):
    """The argument parser of every tool, with ``--debug``, which `run_tool` looks for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument(DEBUG, action='store_true', help='show the traceback of an error')


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a tool's ``main`` and exit: with what it returns, or with one line about what is wrong.

    That is a `UserError`, or what the operating system and the libraries raise because of something outside the
    program. Anything else is a fault of the program and keeps its traceback; ``--debug`` shows every traceback. Of
    several processes that meet the same, the first one says it.
    """
    _set_up()
    gc.freeze()  # what is imported stays; mmengine asks for a full collection at each data set that it builds
    try:
        status = main()
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        status = 130
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except Exception as error:
        message = without_traceback(error) if isinstance(error, UserError) else explanation(error)
        if message is None or DEBUG in sys.argv:
            raise
        if not first_says(error, message):
            print(f'error: {message}', file=sys.stderr)
        status = getattr(error, 'status', 1)
    sys.exit(status or 0)


def _set_up() -> None:
    """Ctrl-C raises again (see ``vit22b_dense_interrupt``), and what can be said is said without errors of its own."""
    logging.raiseExceptions = False  # a full disk is reported by what has to be written, not by each line of the log
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # what a test or a notebook has put in its place
            stream.reconfigure(errors='backslashreplace')


def without_traceback(error: Exception) -> str:
    """The bare message, without the traceback that a data loader's worker puts in front of it."""
    name = re.escape(f'{type(error).__module__}.{type(error).__qualname__}'.removeprefix('builtins.'))
    wrapped = re.match(rf'Caught {type(error).__name__} in .*?^(?:{name}): (.*)', str(error), re.DOTALL | re.MULTILINE)
    return (wrapped[1] if wrapped else str(error)).strip()


def explanation(error: Exception) -> str | None:
    """What an error that is no `UserError` says about the world outside; None where the program itself is at fault."""
    text = without_traceback(error)
    if isinstance(error, OSError):
        what = ADVICE.get(error.errno) or error.strerror
        if not what:
            return text or None
        named = isinstance(error.filename, str | bytes)
        return f'{os.fsdecode(error.filename)}: {what}' if named else f'{text}; {what}'
    if isinstance(error, MemoryError) or type(error).__name__ == 'OutOfMemoryError':
        place = 'the accelerator' if type(error).__name__ == 'OutOfMemoryError' else 'the machine'
        return (
            f'the memory of {place} does not suffice ({text.splitlines()[0] if text else "out of memory"}). Take a '
            'smaller batch (--cfg-options train_dataloader.batch_size=N) or backbone'
        )
    if isinstance(error, RuntimeError) and any(sign in text for sign in PEER_LOST):
        return (
            f'another process of this run has ended, or does not answer ({text.splitlines()[0]}). Look for what it '
            'said before, and continue a training with --resume'
        )
    if isinstance(error, RuntimeError) and 'DataLoader worker' in text:
        return (
            f'{text.splitlines()[0]} A process that loads data has ended: out of memory, or killed. Take fewer of '
            'them (--cfg-options train_dataloader.num_workers=N), and continue a training with --resume'
        )
    return None
