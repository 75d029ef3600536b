"""A made data set in a folder of its own: known by its parameters, made in parallel, completed when cut off."""

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from ..errors import UserError
from ..files import write_atomically
from ..warm import warm_context
from .raycast import Street
from .scene import make_street

SPLITS = ('training', 'validation')


def seeded_street(*entropy: int) -> tuple[Street, np.random.Generator]:
    """A street, and a generator for all else, that depend on these numbers alone."""
    sequence = np.random.SeedSequence(entropy)
    return make_street(int(sequence.generate_state(1, np.uint64)[0])), np.random.default_rng(sequence)


@dataclass(frozen=True)
class MadeSet:
    """A data set of toy streets, made job by job: a split, and an index from 1 in it.

    A kind of set has a method ``make(job)`` that does one, and ``files(split, index)``, the list of the paths that
    it writes, each of them whole. A number that makes no sense is a UserError.
    """

    root: Path  # the folder; ROOT/toy_street.json holds all other fields
    num_train: int  # how many jobs
    num_val: int
    size: tuple[int, int]  # (height, width) of the pictures in pixels
    seed: int = 0
    # What else decides the contents: a version, to be raised when the same fields give other data.
    kind: ClassVar[dict[str, object]] = {}

    def __post_init__(self) -> None:
        if min(self.num_train, self.num_val) < 0 or self.num_train + self.num_val == 0:
            raise UserError(f'num_train={self.num_train} and num_val={self.num_val} must be 0 or more, not both 0')
        if len(self.size) != 2 or min(self.size) < 1 or self.seed < 0:
            raise UserError(f'size={self.size} must be at least 1, seed={self.seed} at least 0')

    def write(self, workers: int = 1, progress: Callable[[int, int], None] | None = None) -> int:
        """Make what is missing, and return how many jobs that were.

        Args:
            workers: how many processes. For more than one a script needs the usual ``if __name__ == '__main__'``.
            progress: called with (jobs done, jobs to do) after each.

        Raises:
            UserError: if workers is below 1, or if ROOT holds something else or another toy street.
        """
        if workers < 1:
            raise UserError(f'workers={workers} must be at least 1')
        self._claim_root()
        counts = (self.num_train, self.num_val)
        jobs = [(split, i + 1) for split, count in zip(SPLITS, counts, strict=True) for i in range(count)]
        left = [job for job in jobs if not all(path.exists() for path in self.files(*job))]
        with ExitStack() as stack:
            run = map
            if workers > 1:
                # Not forks of this process: with threads running (torch's, OpenCV's) they can hang.
                processes = min(workers, len(left) or 1)
                pool = ProcessPoolExecutor(processes, warm_context(), cv2.setNumThreads, (1,))
                stack.callback(pool.shutdown, cancel_futures=True)
                run = partial(pool.map, chunksize=2)
            for done, _ in enumerate(run(self.make, left), 1):
                if progress:
                    progress(done, len(left))
        return len(left)

    def _claim_root(self) -> None:
        """Mark a free folder as this set's, or see that it is."""
        fields = {name: value for name, value in vars(self).items() if name != 'root'}
        mine, manifest = json.dumps({**self.kind, **fields}, indent=2) + '\n', self.root / 'toy_street.json'
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f'{self.root} is a file, not a folder to write a toy street to')
        if not manifest.exists():
            if self.root.exists() and any(self.root.iterdir()):
                raise UserError(f'{self.root} is not empty and holds no toy street: choose another folder')
            write_atomically(manifest, mine)
        try:
            found = json.loads(manifest.read_text())
        except ValueError as error:
            raise UserError(f'{manifest} cannot be read ({error}): choose another folder') from error
        if found != json.loads(mine):
            raise UserError(f'{self.root} holds a toy street of other parameters, {found}: choose another folder')
