"""The whole job: which segments, by how many processes, resumed, counted and reported.

Segments are independent, so they are what processes (`workers`) and machines (`shard`) share out. A segment
is complete where its `index.json` is and the files are as that says; a run leaves complete segments alone and
starts the others over.
"""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..datasets.waymo_index import read_index
from ..errors import UserError
from ..files import sweep, take_lock
from ..progress import duration
from .parquet import needed_components
from .segment import intact, prepare_segment
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

    def add(self, outcome: str, index: dict[str, Any] | SegmentError) -> None:
        """Count a segment, from its index where it has one."""
        self.segments[outcome] += 1
        if outcome == 'failed':
            return
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
            f'{self.dropped["behind"]} returns behind a camera, {self.dropped["outside"]} outside an image and '
            f'{self.dropped["invalid"]} without a possible distance dropped; '
            f'segments: {self.segments["done"]} done, {self.segments["complete"]} complete before, '
            f'{self.segments["failed"]} failed'
        )


def list_segments(root: Path, split: str, lasers: tuple[int, ...], shard: tuple[int, int] = (0, 1)) -> list[str]:
    """Names of the segments of a split that any needed component has, sorted, one shard of them.

    Raises:
        PrepareError: the split or a component's folder is missing, nothing is in it, a file's name is no
            segment's, or the shard is no shard.
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
    files = {path.stem: path for name in components for path in (folder / name).glob('*.parquet')}
    if not files:
        raise PrepareError(f'{folder}: no .parquet files')
    for name, path in files.items():
        if not re.fullmatch(r'[\w-][\w. -]*', name):
            raise PrepareError(f'{path}: {name!r} is no segment name, and could lead out of OUT; remove the file')
    return sorted(files)[index::count]


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
        with _claimed(job.out / job.split, job.shard), closing(_outcomes(job, names)) as outcomes:
            new = sum(_index(job, name) is None for name in names)
            log(f'{job.split}, shard {job.shard[0]}/{job.shard[1]}: {len(names)} segments, {new} to do')
            began = time.monotonic()
            for name, (outcome, result) in outcomes:
                totals.add(outcome, result)
                if outcome == 'complete':
                    continue
                if outcome == 'failed':
                    log(f'{name}: failed, {result}')
                else:
                    _log_skipped(name, result['skipped'], log)
                todo = len(names) - totals.segments['complete']
                done = totals.segments['done'] + totals.segments['failed']
                left = (time.monotonic() - began) / done * (todo - done)
                log(f'{done} of {todo} segments, {duration(left)} left')
    except BrokenProcessPool as error:
        raise PrepareError(f'a worker died (killed, out of memory?); so far: {totals}') from error
    except OSError as error:
        why = 'the disk is full' if error.errno in (errno.ENOSPC, errno.EDQUOT) else 'cannot write'
        raise PrepareError(f'{job.out}: {why} ({error}); stopped, run again to resume; so far: {totals}') from error
    return totals


def _log_skipped(name: str, skipped: list[dict[str, Any]], log: Callable[[str], None]) -> None:
    for row in skipped[:MAX_MESSAGES]:
        camera = CAMERA_NAMES[row['camera']]
        log(f'{name} {row["timestamp"]} {camera}: skipped, {row["reason"]}: {row["detail"]}')
    if len(skipped) > MAX_MESSAGES:
        log(f'{name}: ... and {len(skipped) - MAX_MESSAGES} more, listed in its index')


@contextmanager
def _claimed(base: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Keep other processes from the segments, and clear up before and after what runs left that were cut off."""
    base.mkdir(parents=True, exist_ok=True)
    (base / f'.shard-{shard[0]}-of-{shard[1]}.lock').touch()
    with ExitStack() as files:
        for path in base.glob('.shard-*-of-*.lock'):
            index, count = map(int, re.findall(r'\d+', path.name))
            if (index - shard[0]) % math.gcd(count, shard[1]) == 0:  # the two shards have segments in common
                lock = take_lock(path)
                if lock is None:
                    raise PrepareError(f'{path}: another process prepares these segments; wait for its end')
                files.enter_context(lock)
        sweep(base)
        files.callback(sweep, base)  # of workers that were ended
        yield


def _index(job: Job, name: str) -> dict[str, Any] | None:
    """The index of a segment that is to be left alone if its files are whole."""
    folder = job.out / job.split / name
    try:
        index = None if job.overwrite else read_index(folder)
        if index is None:
            return None
        theirs = {key: tuple(value) for key, value in index['settings'].items()}
        Totals().add('complete', index)
    except (json.JSONDecodeError, UnicodeDecodeError):  # damaged
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PrepareError(f'{folder}: an index that cannot be used ({error}); --overwrite redoes it') from error
    if theirs != asdict(job.settings):
        raise PrepareError(f'{folder}: prepared with {theirs}, not {asdict(job.settings)}; --overwrite redoes it')
    return index


def _segment(job: Job, name: str) -> tuple[str, dict[str, Any] | SegmentError]:
    """What became of a segment, with its index or what is wrong."""
    index = _index(job, name)
    if index and intact(job.out / job.split, index):
        return 'complete', index
    try:
        return 'done', prepare_segment(job, name)
    except SegmentError as error:
        return 'failed', error


def _outcomes(job: Job, names: list[str]) -> Iterator[tuple[str, tuple[str, dict[str, Any] | SegmentError]]]:
    """Each name with what `_segment` returns, as they are done."""
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
