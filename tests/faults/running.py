"""Tools in processes of their own, forked from one that has imported the package already: a start takes no time."""

import os
import runpy
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from vit22b_dense.warm import warm_context

REPO = Path(__file__).resolve().parents[2]
LIMIT = 60  # seconds, after which a tool counts as hanging
_context = warm_context()


@dataclass(frozen=True)
class Outcome:
    """How a tool ended: exit status, negative for a signal, None where it did not end; and all that it said."""

    status: int | None
    said: str


class Tool:
    """A tool that runs in a folder.

    Args:
        command: a script of tools/ and its arguments.
        cwd: the folder.
        before: called first in its process; it can be pickled.
    """

    def __init__(self, command: list[str], cwd: Path, before: Callable[[], None] | None = None) -> None:
        receiver, sender = _context.Pipe(duplex=False)
        self.process = _context.Process(target=_child, args=(command, str(cwd), before, sender))
        self.process.start()
        sender.close()
        self._said = b''
        self._reader = threading.Thread(target=self._read, args=(receiver,), daemon=True)
        self._reader.start()

    def _read(self, receiver: Connection) -> None:
        with receiver:
            while part := os.read(receiver.fileno(), 1 << 16):
                self._said += part

    def finish(self) -> Outcome:
        """Wait for its end."""
        self.process.join(LIMIT)
        status = self.process.exitcode
        if status is None:
            self.process.kill()
        self.process.join()
        self._reader.join(10)  # a worker that outlives it may hold the other end
        return Outcome(status, self._said.decode('utf-8', 'replace'))


def run(command: list[str], cwd: Path, before: Callable[[], None] | None = None) -> Outcome:
    """Run a tool to its end; see `Tool`."""
    return Tool(command, cwd, before).finish()


def _child(command: list[str], cwd: str, before: Callable[[], None] | None, output: Connection) -> None:
    import mmengine.runner.runner as runner

    runner.collect_env = dict  # it asks the compilers for their versions, which takes seconds
    os.chdir(cwd)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    output.close()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (os.fdopen(number, 'w', buffering=1, closefd=False) for number in (1, 2))
    script = str(REPO / 'tools' / command[0])
    sys.argv = [script, *command[1:]]
    status = 1
    try:
        if before:
            before()
        runpy.run_path(script, run_name='__main__')
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
