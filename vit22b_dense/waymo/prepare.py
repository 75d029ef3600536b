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
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..datasets.waymo_index import read_index
from ..errors import UserError
from ..progress import duration
from .parquet import needed_components
from .segment import prepare_segment
from .types import CAMERA_NAMES, Job, SegmentError

MAX_MESSAGES = 10  # of one segment; its index lists all


class PrepareError(UserError):
    """The job is refused, or cannot go on; the message says why."""

    status = 2


@dataclass
class Totals:
    """Counts over segments; `str()` is the final line, `status` the exit status that agrees with it."""

    segments: Counter[str] = field(default_factory=Counter)  # by outcome: done, complete (before), failed
    frames: Counter[str] = field(default_factory=Counter)  # likewise
    skipped: Counter[str] = field(default_factory=Counter)  # frames, by reason
    dropped: Counter[str] = field(default_factory=Counter)  # returns, by reason
    empty: int = 0  # frames without a LiDAR point

    def add(self, outcome: str, index: dict[str, Any]) -> None:
        """Count a segment that is prepared, from its index."""
        self.segments[outcome] += 1
        self.frames[outcome] += len(index['frames'])
        self.skipped.update(row['reason'] for row in index['skipped'])
        self.dropped.update(index['dropped_returns'])
        self.empty += sum(frame['points'] == 0 for frame in index['frames'])

    @property
    def status(self) -> int:
        """0 where everything is fine, 1 where frames or segments were skipped because of errors."""
        return int(bool(self.skipped or self.segments['failed']))

    def __str__(self) -> str:
        """One line: frames written and skipped (by reason), segments."""
        before = f', {self.frames["complete"]} already there' if self.frames['complete'] else ''
        reasons = ', '.join(f'{reason}: {count}' for reason, count in sorted(self.skipped.items()))
        return (
            f'{self.frames["done"]} frames written{before}, {self.empty} of these without LiDAR points, '
            f'{self.skipped.total()} skipped{f" ({reasons})" if reasons else ""}; '
            f'{self.dropped["behind"]} returns behind a camera and {self.dropped["outside"]} outside an image '
            'dropped; '
            f'segments: {self.segments["done"]} done, {self.segments["complete"]} complete before, '
            f'{self.segments["failed"]} failed'
        )


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
    components = needed_components(lasers)
    missing = [name for name in components if not (folder / name).is_dir()]
    if missing:
        raise PrepareError(f'{folder}: missing components {", ".join(missing)}')
    names = {path.stem for name in components for path in (folder / name).glob('*.parquet')}
    if not names:
        raise PrepareError(f'{folder}: no .parquet files')
    return sorted(names)[index::count]


def prepare(job: Job, log: Callable[[str], None]) -> Totals:
    """Prepare the segments of a job that are not complete; the counts include those that are.

    Messages and progress go to `log`, a line each.

    Raises:
        PrepareError: the job is refused before anything is written, or had to stop: the output cannot be
            written (disk full), or a worker died. Running it again resumes.
    """
    totals = Totals()
    names = list_segments(job.root, job.split, job.settings.lasers, job.shard)
    try:
        pending = [name for name in names if not _complete(job, name, totals)]
        log(f'{job.split}, shard {job.shard[0]}/{job.shard[1]}: {len(names)} segments, {len(pending)} to do')
        began = time.monotonic()
        with closing(_outcomes(job, pending)) as outcomes:
            for done, (name, outcome) in enumerate(outcomes, 1):
                if isinstance(outcome, SegmentError):
                    totals.segments['failed'] += 1
                    log(f'{name}: failed, {outcome}')
                else:
                    totals.add('done', outcome)
                    for row in outcome['skipped'][:MAX_MESSAGES]:
                        frame = f'{name} {row["timestamp"]} {CAMERA_NAMES[row["camera"]]}'
                        log(f'{frame}: skipped, {row["reason"]}: {row["detail"]}')
                    if (more := len(outcome['skipped']) - MAX_MESSAGES) > 0:
                        log(f'{name}: ... and {more} more, listed in its index')
                left = (time.monotonic() - began) / done * (len(pending) - done)
                log(f'{done} of {len(pending)} segments, {duration(left)} left')
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
        totals.add('complete', index)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PrepareError(f'{folder}: an index that cannot be used ({error}); --overwrite redoes it') from error
    if theirs != asdict(job.settings):
        raise PrepareError(f'{folder}: prepared with {theirs}, not {asdict(job.settings)}; --overwrite redoes it')
    return True


def _segment(job: Job, name: str) -> dict[str, Any] | SegmentError:
    try:
        return prepare_segment(job, name)
    except SegmentError as error:
        return error


def _outcomes(job: Job, names: list[str]) -> Iterator[tuple[str, dict[str, Any] | SegmentError]]:
    """The segments' indexes, or why there is none, as they are done."""
    workers = min(job.workers, len(names))
    if workers <= 1:
        yield from ((name, _segment(job, name)) for name in names)
        return
    context = multiprocessing.get_context('spawn')  # OpenCV's and Arrow's threads do not survive a fork
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(workers, context, _end_with_parent) as pool:
        try:
            # The workers inherit that Ctrl-C is blocked: it is for this process to end them.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                futures = {pool.submit(_segment, job, name): name for name in names}
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BaseException:
            for worker in set(multiprocessing.active_children()).difference(others):
                worker.terminate()
            raise


def _end_with_parent() -> None:
    """Keep a worker from outliving the process that started it."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
