"""Running the cells of a few-shot table: each training and test in its own process, progress, failures, locks."""

import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..evaluation.runs import logged_losses
from ..files import take_lock, write_atomically
from ..progress import duration, overwrite_line
from ..warm import start_warm
from .cells import FAILURE, Cell
from .table import by_row, main_scores, shown, values_of

POLL = 0.2  # seconds between two looks at a running process
LOST = 255  # exit status of a process where the fork server was killed: it may still be running


@contextmanager
def _locked(folder: Path) -> Iterator[int | None]:
    """The number of a cell's lock file, locked; None where another process has it.

    The cell's processes inherit it, so that it is held until the last of them has ended.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = take_lock(folder / '.lock')
    except OSError as error:
        raise UserError(f'{folder}: cannot be written ({error}); choose another --work-dir') from error
    with lock or nullcontext():
        yield lock and lock.fileno()


def time_left(done: Sequence[tuple[int, float]], waiting: Sequence[int]) -> float | None:
    """Seconds that some cells will take; None where nothing is known yet.

    It takes from the iterations and seconds of each cell that was run what a cell costs, and what an iteration, and
    from that the time for the iterations of each waiting cell.
    """
    if not done:
        return None
    iterations, seconds = np.array(done, float).T
    if len(set(iterations)) > 1:
        slope, start = np.polyfit(iterations, seconds, 1)
        if slope >= 0 and start >= 0:
            return float(slope * sum(waiting) + start * len(waiting))
    return float(sum(waiting) * seconds.sum() / iterations.sum())


class Run:
    """Runs cells in their order.

    Args:
        cells: from `plan_cells`.
        after_cell: called after each cell that was run, to update the table.
        jobs: how many are run at the same time.
    """

    def __init__(self, cells: Sequence[Cell], after_cell: Callable[[], None], jobs: int = 1) -> None:
        self.cells = cells
        self.after_cell = after_cell
        self.jobs = jobs
        self.done: list[tuple[int, float]] = []  # iterations and seconds
        self.begun: list[Cell] = []

    def all(self) -> None:
        """Run what is not finished; failures are recorded and the next cell is started."""
        waiting = (self._turn(cell) for cell in self.cells if not cell.finished)
        running: list[Generator[None]] = []
        try:
            while True:
                while len(running) < self.jobs and (turn := next(waiting, None)):
                    running.append(turn)
                if not running:
                    return
                running[:] = [turn for turn in running if next(turn, 'ended') != 'ended']
        finally:
            for turn in running:
                turn.close()

    def _turn(self, cell: Cell) -> Generator[None]:
        """Run a cell unless somebody else does, coming back now and then while it runs."""
        with _locked(cell.work_dir) as lock:
            if lock is None:
                print(f'{self._place(cell)}: another process is at work on it, left to that one', flush=True)
            elif not cell.finished:  # another process may just have finished it
                yield from self._run(cell, lock)
                self.after_cell()

    def _place(self, cell: Cell) -> str:
        return f'[{self.cells.index(cell) + 1}/{len(self.cells)}] {cell}'

    def _run(self, cell: Cell, lock: int) -> Generator[None]:
        (cell.work_dir / FAILURE).unlink(missing_ok=True)
        cell.write_subset()
        iterations = cell.entry.iterations
        print(f'{self._place(cell)}: {len(cell.train_names)} images, {iterations} iterations', flush=True)
        start, resumed = time.time(), bool(cell.checkpoints)
        self.begun.append(cell)
        for name, command in cell.commands().items():
            log = cell.work_dir / f'{name}.txt'
            with open(log, 'ab') as output:
                # a session of its own: an interrupt reaches it through us, once
                started = dict(pass_fds=[lock], start_new_session=True)
                process = start_warm(command[1:], stdout=output, stderr=output, **started)
            try:
                status = yield from self._wait(process, cell, name, start)
            finally:
                _stop(process)
            if status:
                lines = [line for line in log.read_text('utf-8', 'replace').splitlines() if line.strip()]
                how = f'killed by signal {-status}' if status < 0 else f'ended with status {status}'
                said = next((line for line in reversed(lines) if line.startswith('error: ')), None)  # not torchrun's
                reason = f'tools/{name}.py {how}: {said or (lines[-1] if lines else "no output")}'
                write_atomically(cell.work_dir / FAILURE, f'{reason}\n')
                print(f'{self._place(cell)}: FAILED, {reason}\n    all of its output: {log}', flush=True)
                return
        seconds = time.time() - start
        if not resumed:
            self.done.append((iterations, seconds))
        print(f'{self._place(cell)}: {self._score(cell)}, in {duration(seconds)}{self._left()}', flush=True)

    def _wait(self, process: BaseProcess, cell: Cell, name: str, start: float) -> Generator[None, None, int]:
        told = 0.0
        while (status := process.exitcode) is None:
            process.join(POLL / self.jobs)
            yield
            if sys.stdout.isatty() and time.time() - told > 1:
                told, inside = time.time(), name
                for step, loss in logged_losses(cell.work_dir) if name == 'train' else ():
                    inside = f'iteration {step}/{cell.entry.iterations}, loss {loss:.3f}'
                spent = duration(time.time() - start)
                overwrite_line(f'{self._place(cell)}: {inside}, {spent} so far{self._left(cell)}')
        overwrite_line('')
        return status

    def _left(self, current: Cell | None = None) -> str:
        waiting = [
            cell.entry.iterations
            for cell in self.cells
            if cell is current or not (cell.finished or cell in self.begun)
        ]
        seconds = time_left(self.done, waiting)
        return '' if seconds is None or not waiting else f'; {duration(seconds / self.jobs)} left'

    def _score(self, cell: Cell) -> str:
        """The cell's main score, and the mean over the seeds so far."""
        results = [other.result() for other in self.cells]
        score, (title, _) = next(iter(main_scores(results).items()))
        mine = values_of([cell.result()], score)
        values = values_of(by_row(results)[cell.entry.backbone][cell.entry.fraction], score)
        spread = f', over {len(values)} seeds {shown(values, score)}' if len(values) > 1 else ''
        return f'{title} {shown(mine, score)}{spread}' if mine else 'no score'


def _stop(process: BaseProcess) -> None:
    """End a process and all its workers, if it is still running."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.exitcode in (None, LOST):
            for end in (os.killpg, os.kill):  # it leads no session yet where it has only just been started
                with suppress(ProcessLookupError):
                    end(process.pid, number)
            process.join(10)
