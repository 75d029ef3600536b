"""Running the cells of a few-shot table: each training and test as a process of its own, progress, failures, locks."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import write_atomically
from ..progress import duration, overwrite_line
from .cells import FAILURE, Cell
from .table import main_scores, scores_at, shown

POLL = 0.2  # seconds between two looks at a running process


class Busy(Exception):
    """Another process is at work on a cell."""


class _Lock:
    """A cell's lock. Its processes inherit it, so that it is held until the last of them has ended."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.file = open(folder / '.lock', 'w')  # noqa: SIM115  (open as long as the lock is held)
        except OSError as error:
            raise UserError(f'{folder}: cannot be written ({error}); choose another --work-dir') from error

    def __enter__(self) -> int:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise Busy from None
        return self.file.fileno()

    def __exit__(self, *_: object) -> None:
        self.file.close()


def iteration_reached(folder: Path) -> tuple[int, float | None]:
    """How far the latest run in a work dir is by its log: iteration, and loss."""
    logs = sorted(folder.glob('*/vis_data/scalars.json'))
    for line in reversed(logs[-1].read_text(encoding='utf-8').splitlines() if logs else []):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # being written
            continue
        if 'loss' in entry:
            return entry['step'], entry['loss']
    return 0, None


def time_left(done: Sequence[tuple[int, float]], waiting: Sequence[int]) -> float | None:
    """Seconds that some cells will take, from the cells that have run: so much a cell, and so much an iteration.

    Args:
        done: iterations and seconds of each finished cell.
        waiting: iterations of each cell to come.

    Returns:
        None where nothing is known yet.
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
    """Runs cells one after the other.

    Args:
        cells: from `plan`.
        after_cell: called after each cell that was run, to write the table anew.
    """

    def __init__(self, cells: Sequence[Cell], after_cell: Callable[[], None]) -> None:
        self.cells = cells
        self.after_cell = after_cell
        self.done: list[tuple[int, float]] = []
        self.process: subprocess.Popen | None = None

    def all(self) -> None:
        """Run what is not finished; failures are noted and the next cell is begun."""
        for number, cell in enumerate(self.cells, 1):
            self.number = number
            if cell.finished:
                continue
            try:
                with _Lock(cell.work_dir) as lock:
                    if not cell.finished:  # another process may just have finished it
                        self._run(cell, lock)
                        self.after_cell()
            except Busy:
                print(f'{self._place(cell)}: another process is at work on it, left to that one', flush=True)

    def _place(self, cell: Cell) -> str:
        return f'[{self.number}/{len(self.cells)}] {cell}'

    def _run(self, cell: Cell, lock: int) -> None:
        (cell.work_dir / FAILURE).unlink(missing_ok=True)
        cell.write_subset()
        print(f'{self._place(cell)}: {len(cell.train_names)} images, {cell.iterations} iterations', flush=True)
        start, resumed = time.time(), any(cell.work_dir.glob('*.pth'))
        for name, command in cell.commands().items():
            log = cell.work_dir / f'{name}.txt'
            with open(log, 'ab') as output:
                # a session of its own: an interrupt reaches it through us, once
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[lock],
                    start_new_session=True,
                )
                try:
                    status = self._wait(cell, name, start)
                finally:
                    self._stop()
            if status:
                self._note_failure(cell, name, status, log)
                return
        seconds = time.time() - start
        if not resumed:
            self.done.append((cell.iterations, seconds))
        print(f'{self._place(cell)}: {self._score(cell)}, in {duration(seconds)}{self._left()}', flush=True)

    def _wait(self, cell: Cell, name: str, start: float) -> int:
        told = 0.0
        while (status := self.process.poll()) is None:
            time.sleep(POLL)
            if sys.stdout.isatty() and time.time() - told > 1:
                told = time.time()
                iteration, loss = iteration_reached(cell.work_dir) if name == 'train' else (0, None)
                inside = f'iteration {iteration}/{cell.iterations}, loss {loss:.3f}' if loss is not None else name
                spent = duration(time.time() - start)
                overwrite_line(f'{self._place(cell)}: {inside}, {spent} so far{self._left(cell)}')
        overwrite_line('')
        return status

    def _stop(self) -> None:
        """End the process that is running, with all its workers."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.process = None

    def _left(self, current: Cell | None = None) -> str:
        waiting = [cell.iterations for cell in self.cells[self.number - (current is not None) :] if not cell.finished]
        seconds = time_left(self.done, waiting)
        return '' if seconds is None or not waiting else f'; {duration(seconds)} left'

    def _score(self, cell: Cell) -> str:
        """The cell's main score, and the mean over the seeds so far."""
        results = [other.result() for other in self.cells]
        score, (title, _) = next(iter(main_scores(results).items()))
        mine = cell.result().scores.get(score)
        values = scores_at(results, cell.label, cell.fraction, score)
        if mine is None or not values:
            return 'no score'
        spread = f', over {len(values)} seeds {shown(values, score)}' if len(values) > 1 else ''
        return f'{title} {shown([mine], score)}{spread}'

    def _note_failure(self, cell: Cell, name: str, status: int, log: Path) -> None:
        lines = [line for line in log.read_text(encoding='utf-8', errors='replace').splitlines() if line.strip()]
        how = f'killed by signal {-status}' if status < 0 else f'ended with status {status}'
        reason = f'tools/{name}.py {how}: {lines[-1] if lines else "no output"}'
        write_atomically(cell.work_dir / FAILURE, f'{reason}\n')
        print(f'{self._place(cell)}: FAILED, {reason}\n    all of its output: {log}', flush=True)
