"""A made data set in a folder of its own: known by its parameters, made in parallel, completed when cut off."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2

from ..errors import UserError
from ..files import write_atomically

MANIFEST = 'toy_street.json'
# Says with which parameters a set is being made; it gives way to the manifest when all is there.
_UNFINISHED = 'toy_street.unfinished.json'


def make_set(
    root: Path,
    parameters: dict[str, object],
    jobs: Sequence[Any],
    complete: Callable[[Any], bool],
    make: Callable[[Any], None],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Do the jobs of a set that are not done.

    Args:
        root: the folder; made if it is not there. ROOT/toy_street.json is written last.
        parameters: all that decides the contents.
        jobs: one a piece.
        complete: whether a job's files are there.
        make: does a job; to be sent to other processes.
        workers: how many processes; more than one are spawned.
        progress: called with (jobs done, jobs to do) after each.

    Returns:
        How many jobs were done.

    Raises:
        UserError: if ROOT holds something else, or a set of other parameters.
    """
    _check_owner(root, parameters)
    left = [job for job in jobs if not complete(job)]
    if not left and (root / MANIFEST).exists():
        return 0
    text = json.dumps(parameters, indent=2) + '\n'
    # Before any job: a run that is cut off at once is still known for a toy street.
    write_atomically(root / _UNFINISHED, text)
    if workers == 1:
        for done, job in enumerate(left, 1):
            make(job)
            if progress:
                progress(done, len(left))
    else:
        # Spawned, not forked: a fork of a process with running threads (torch's, OpenCV's) can hang.
        context = multiprocessing.get_context('spawn')
        pool = ProcessPoolExecutor(min(workers, max(len(left), 1)), context, cv2.setNumThreads, (1,))
        try:
            for done, _ in enumerate(pool.map(make, left, chunksize=2), 1):
                if progress:
                    progress(done, len(left))
        finally:
            pool.shutdown(cancel_futures=True)
    write_atomically(root / MANIFEST, text)
    (root / _UNFINISHED).unlink()
    return len(left)


def _check_owner(root: Path, parameters: dict[str, object]) -> None:
    """Raises UserError unless root is free or holds a toy street of these parameters."""
    if not root.exists():
        return
    if not root.is_dir():
        raise UserError(f'{root} is a file, not a folder to write a toy street to')
    manifests = [root / name for name in (MANIFEST, _UNFINISHED) if (root / name).exists()]
    if not manifests:
        if any(root.iterdir()):
            raise UserError(f'{root} is not empty and holds no toy street: choose another folder')
        return
    try:
        found = json.loads(manifests[0].read_text())
    except ValueError as error:
        raise UserError(f'{manifests[0]} cannot be read ({error}): choose another folder') from error
    if found != parameters:
        raise UserError(
            f'{root} holds a toy street of other parameters ({found}, not {parameters}): '
            'delete it or choose another folder'
        )
