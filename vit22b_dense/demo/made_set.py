"""A made data set in a folder of its own: known by its parameters, made in parallel, completed when cut off."""

import json
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import UserError
from ..files import write_atomically
from .raycast import Street
from .scene import make_street

SPLITS = ('training', 'validation')


def seeded_street(*entropy: int) -> tuple[Street, np.random.Generator]:
    """A street, and a generator for all else, that depend on these numbers alone."""
    sequence = np.random.SeedSequence(entropy)
    return make_street(int(sequence.generate_state(1, np.uint64)[0])), np.random.default_rng(sequence)


def make_set(
    root: Path,
    parameters: dict[str, Any],
    files: Callable[[str, int], Iterable[Path]],
    make: Callable[[tuple[str, int]], None],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Make what is missing of a set; a job is a split and an index from 1 in it.

    A complete set of the same parameters is left alone, one that was cut off is completed. More than one worker
    means spawned processes: a script that calls this needs the usual ``if __name__ == '__main__'``.

    Args:
        root: the folder; made if it is not there. ROOT/toy_street.json, written first, holds the parameters.
        parameters: all that decides the contents, whatever the number of workers. Among them: num_train and
            num_val, how many jobs; size, (height, width) of the pictures in pixels; seed.
        files: the files of a job. Each must come into being whole.
        make: does a job.
        workers: how many processes.
        progress: called with (jobs done, jobs to do) after each.

    Returns:
        How many jobs were done: 0 if all were there.

    Raises:
        UserError: if a number makes no sense, or if ROOT holds something else, or a set of other parameters.
    """
    num_train, num_val, size, seed = (parameters[name] for name in ('num_train', 'num_val', 'size', 'seed'))
    if min(num_train, num_val) < 0 or num_train + num_val == 0:
        raise UserError(f'num_train={num_train} and num_val={num_val} must be 0 or more, and not both 0')
    if len(size) != 2 or min(size) < 1 or seed < 0 or workers < 1:
        raise UserError(f'size={tuple(size)} and workers={workers} must be at least 1, seed={seed} at least 0')
    _claim(root, parameters)
    jobs = [(split, i + 1) for split, count in zip(SPLITS, (num_train, num_val), strict=True) for i in range(count)]
    left = [job for job in jobs if not all(path.exists() for path in files(*job))]
    with ExitStack() as stack:
        run = map
        if workers > 1:
            # Spawned, not forked: a fork of a process with running threads (torch's, OpenCV's) can hang.
            context = multiprocessing.get_context('spawn')
            pool = ProcessPoolExecutor(min(workers, len(left) or 1), context, cv2.setNumThreads, (1,))
            stack.callback(pool.shutdown, cancel_futures=True)
            run = partial(pool.map, chunksize=2)
        for done, _ in enumerate(run(make, left), 1):
            if progress:
                progress(done, len(left))
    return len(left)


def _claim(root: Path, parameters: dict[str, Any]) -> None:
    """Write the parameters into a free folder, or see that it holds a toy street of these."""
    manifest = root / 'toy_street.json'
    if root.exists() and not root.is_dir():
        raise UserError(f'{root} is a file, not a folder to write a toy street to')
    if not manifest.exists():
        if root.exists() and any(root.iterdir()):
            raise UserError(f'{root} is not empty and holds no toy street: choose another folder')
        write_atomically(manifest, json.dumps(parameters, indent=2) + '\n')
    try:
        found = json.loads(manifest.read_text())
    except ValueError as error:
        raise UserError(f'{manifest} cannot be read ({error}): choose another folder') from error
    if found != parameters:
        raise UserError(
            f'{root} holds a toy street of other parameters ({found}, not {parameters}): '
            'delete it or choose another folder'
        )
