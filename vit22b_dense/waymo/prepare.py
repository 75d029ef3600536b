"""The whole job: which segments, by how many processes, resumed, counted and reported.

Segments are independent, so they are what processes (`workers`) and machines (`shard`) share out. A segment
is complete once its `index.json` is there; a run leaves complete segments alone and starts the others over.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..datasets.waymo_index import read_index
from ..errors import UserError
from ..progress import duration
from .components import needed_components
from .segment import SegmentReport, prepare_segment, report_complete
from .types import SegmentError, Settings

PROGRESS_SECONDS = 10.0
MAX_MESSAGES = 10  # of one segment; its index lists all


class PrepareError(UserError):
    """The job is refused, or cannot go on; the message says why."""

    status = 2


class _Stopped(Exception):
    """Raised inside a segment's job when the run is to end."""


@dataclass(frozen=True)
class Job:
    """What to prepare.

    Attributes:
        root: folder of the released data, `ROOT/SPLIT/COMPONENT/SEGMENT.parquet`.
        out: folder to write to, `OUT/SPLIT/SEGMENT/`.
        split: `training` or `validation`.
        settings: cameras, lasers and returns.
        workers: processes; 1 works in this one.
        shard: `(i, n)`: take the segments i, i + n, i + 2 n, ... of the sorted list.
        overwrite: prepare complete segments again.
    """

    root: Path
    out: Path
    split: str
    settings: Settings
    workers: int = 1
    shard: tuple[int, int] = (0, 1)
    overwrite: bool = False


@dataclass
class Totals:
    """Counts over segments; `str()` is the final line, `status` the exit status that agrees with it."""

    segments: Counter[str] = field(default_factory=Counter)
    frames: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    behind: int = 0
    outside: int = 0

    def add(self, report: SegmentReport) -> None:
        """Count one segment."""
        self.segments[report.status] += 1
        self.frames[report.status] += report.frames
        self.skipped += report.skipped
        self.empty += report.empty
        self.behind += report.behind
        self.outside += report.outside

    @property
    def status(self) -> int:
        """0 where everything is fine, 1 where frames or segments were skipped because of errors."""
        return int(bool(self.skipped or self.segments['failed']))

    def __str__(self) -> str:
        """One line: frames written and skipped (by reason), segments."""
        reasons = ', '.join(f'{reason}: {count}' for reason, count in sorted(self.skipped.items()))
        parts = [f'{self.frames["done"]} frames written']
        if self.frames['complete']:
            parts.append(f'{self.frames["complete"]} already there')
        parts.append(f'{self.empty} of these without LiDAR points')
        parts.append(f'{self.skipped.total()} skipped' + (f' ({reasons})' if reasons else ''))
        dropped = f'{self.behind} returns behind a camera and {self.outside} outside an image dropped'
        kinds = ('done', 'complete', 'failed')
        words = {'done': 'done', 'complete': 'complete before', 'failed': 'failed'}
        segments = ', '.join(f'{self.segments[kind]} {words[kind]}' for kind in kinds)
        return f'{", ".join(parts)}; {dropped}; segments: {segments}'


def list_segments(root: Path, split: str, lasers: tuple[int, ...], shard: tuple[int, int] = (0, 1)) -> list[str]:
    """Names of the segments of a split that any needed component has, sorted, one shard of them.

    Raises:
        PrepareError: the split or a component's folder is missing, nothing is in it, or the shard is no
            shard.
    """
    index, count = shard
    if not 0 <= index < count:
        raise PrepareError(f'shard {index}/{count}: needs 0 <= i < n')
    folder = root / split
    if not folder.is_dir():
        raise PrepareError(f'{folder}: no such folder; expected ROOT/SPLIT/COMPONENT/SEGMENT.parquet')
    missing = [name for name in needed_components(lasers) if not (folder / name).is_dir()]
    if missing:
        raise PrepareError(f'{folder}: missing components {", ".join(missing)}')
    names = {path.stem for name in needed_components(lasers) for path in (folder / name).glob('*.parquet')}
    if not names:
        raise PrepareError(f'{folder}: no .parquet files')
    return sorted(names)[index::count]


def prepare(job: Job, log: Callable[[str], None]) -> Totals:
    """Prepare the segments of a job that are not complete.

    Args:
        job: what to do.
        log: takes messages and progress, a line each.

    Returns:
        The counts, complete segments' included.

    Raises:
        PrepareError: the job is refused before anything is written, or had to stop: the output cannot be
            written (disk full), or a worker died. Running it again resumes.
    """
    totals = Totals()
    names = list_segments(job.root, job.split, job.settings.lasers, job.shard)
    try:
        pending = [name for name in names if not _complete(job, name, totals)]
        log(f'{job.split}, shard {job.shard[0]}/{job.shard[1]}: {len(names)} segments, {len(pending)} to do')
        with closing(_run(job, pending, _Progress(len(pending), log))) as reports:
            for report in reports:
                totals.add(report)
                hidden = len(report.messages) - MAX_MESSAGES
                for message in report.messages[:MAX_MESSAGES]:
                    log(message)
                if hidden > 0:
                    log(f'{report.name}: ... and {hidden} more, listed in its index')
    except BrokenProcessPool as error:
        raise PrepareError(f'a worker died (killed, out of memory?); so far: {totals}') from error
    except OSError as error:
        why = 'the disk is full' if error.errno in (errno.ENOSPC, errno.EDQUOT) else 'cannot write'
        raise PrepareError(f'{job.out}: {why} ({error}); stopped, run again to resume; so far: {totals}') from error
    return totals


def _complete(job: Job, name: str, totals: Totals) -> bool:
    """Whether a segment is to be left alone; if so, it is counted."""
    if job.overwrite:
        return False
    folder = job.out / job.split / name
    try:
        index = read_index(folder)
        if index is None:
            return False
        theirs = {key: tuple(value) for key, value in index['settings'].items()}
        report = report_complete(name, index)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PrepareError(f'{folder}: an index that cannot be used ({error}); --overwrite redoes it') from error
    if theirs != asdict(job.settings):
        raise PrepareError(f'{folder}: prepared with {theirs}, not {asdict(job.settings)}; --overwrite redoes it')
    totals.add(report)
    return True


class _Progress:
    """Prints what is done and the time left, at most every `PROGRESS_SECONDS` and at each segment's end."""

    def __init__(self, segments: int, log: Callable[[str], None]) -> None:
        self.segments, self.log = segments, log
        self.began = self.printed = time.monotonic()

    def show(self, done: float, force: bool = False) -> None:
        """Take the segments done, with the fractions of those under way."""
        now = time.monotonic()
        if done and (force or now - self.printed >= PROGRESS_SECONDS):
            self.printed = now
            left = (now - self.began) / done * (self.segments - done)
            self.log(f'{done:.1f} of {self.segments} segments, {duration(left)} left')


def _segment(job: Job, name: str, on_frame: Callable[[float], None]) -> SegmentReport:
    """Prepare one segment; one that cannot be read becomes a report."""
    try:
        return prepare_segment(job.root, job.split, name, job.out, job.settings, on_frame)
    except SegmentError as error:
        return SegmentReport(name, 'failed', messages=[f'{name}: failed, {error}'])


def _run(job: Job, names: list[str], progress: _Progress) -> Iterator[SegmentReport]:
    """Reports of the segments, as they are done."""
    if min(job.workers, len(names)) > 1:
        yield from _run_processes(job, names, progress)
        return
    for done, name in enumerate(names):
        yield _segment(job, name, lambda fraction, done=done: progress.show(done + fraction))
        progress.show(done + 1, force=True)


def _run_processes(job: Job, names: list[str], progress: _Progress) -> Iterator[SegmentReport]:
    context = multiprocessing.get_context('spawn')  # OpenCV's and Arrow's threads do not survive a fork
    stop, done = context.Event(), context.Value('d', 0.0)
    workers = min(job.workers, len(names))
    with ProcessPoolExecutor(workers, context, _start_worker, (stop, done)) as pool:
        try:
            waiting = {pool.submit(_work, job, name) for name in names}
            while waiting:
                finished, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
                progress.show(done.value, force=bool(finished))
        finally:
            stop.set()  # on an error or Ctrl-C: at their next frame the workers give up
            pool.shutdown(wait=False, cancel_futures=True)


_shared: dict[str, Any] = {}


def _start_worker(stop: Any, done: Any) -> None:
    """In each worker: keep the shared state, leave Ctrl-C to the parent, and do not outlive it."""
    _shared.update(stop=stop, done=done)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(job: Job, name: str) -> SegmentReport:
    """One segment in a worker."""
    before = [0.0]
    report = _segment(job, name, partial(_advance, before))
    _advance(before, 1.0)  # a failed segment counts as done, too
    return report


def _advance(before: list[float], fraction: float) -> None:
    if _shared['stop'].is_set():
        raise _Stopped
    with _shared['done'].get_lock():
        _shared['done'].value += fraction - before[0]
    before[0] = fraction
