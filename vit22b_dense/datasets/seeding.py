"""Random augmentation that depends on the seed and the sample's place in the run, on nothing else.

The usual seeds, one a worker process, make the data depend on the number of workers, and a resumed run draws
other augmentations than one that was never interrupted. Here the sampler gives each index the seed of its place in
the endless shuffled stream, and `SeededDataset` runs the pipeline under that seed.
"""

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.logging import print_log
from mmseg.registry import DATA_SAMPLERS, DATASETS

from ..errors import UserError
from .loading import DataError


def seed_random_state(entropy: Sequence[int]) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators, accelerators too, from a few numbers >= 0."""
    state = [int(word) for word in np.random.SeedSequence(list(entropy)).generate_state(4)]
    random.seed(state[0])
    np.random.seed(state[1])
    torch.manual_seed(state[2] << 32 | state[3])


@contextmanager
def random_state_of(entropy: Sequence[int]) -> Iterator[None]:
    """Run a block under its own random state on the CPU; outside, it is as if the block had not been there."""
    outside = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        seed_random_state(entropy)
        yield
    finally:
        random.setstate(outside[0])
        np.random.set_state(outside[1])
        torch.random.set_rng_state(outside[2])


class Draw(int):
    """An index into a data set that remembers which draw of the run it is.

    Attributes:
        entropy: the numbers that seed this sample's augmentation: the run's seed and the draw's place.
    """

    entropy: tuple[int, int]

    def __new__(cls, index: int, entropy: tuple[int, int]) -> 'Draw':
        """Make the index; worker processes receive it by pickle."""
        draw = super().__new__(cls, index)
        draw.entropy = entropy
        return draw

    def __getnewargs__(self) -> tuple[int, tuple[int, int]]:
        return int(self), self.entropy


@DATA_SAMPLERS.register_module()
class SeededInfiniteSampler(InfiniteSampler):
    """mmengine's `InfiniteSampler` whose indices are `Draw`: each carries the seed of its place in the stream."""

    def _indices_of_rank(self) -> Iterator[Draw]:
        draws = (Draw(index, (self.seed, place)) for place, index in enumerate(self._infinite_indices()))
        yield from islice(draws, self.rank, None, self.world_size)


@DATASETS.register_module()
class SeededDataset:
    """Outermost wrapper of a training set: the pipeline of each draw runs under the draw's own seed.

    By a plain index it is like any other data set, for looking at samples: what is random follows the global
    generators. It says so once, since a training with another sampler than `SeededInfiniteSampler` cannot be repeated.

    Args:
        dataset: an mmengine dataset or its config.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self._warned = False

    @property
    def metainfo(self) -> dict:
        """Of the wrapped data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Load the annotations of the wrapped data set."""
        self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Draw | int) -> Any:
        if isinstance(index, Draw):
            try:
                with random_state_of(index.entropy):
                    return self.dataset[int(index)]
            except UserError:
                raise
            except Exception as error:
                path = self.dataset.get_data_info(int(index)).get('img_path', f'sample {int(index)}')
                raise DataError(
                    f'{path}: no training sample can be made of it ({type(error).__name__}: {error}); replace it or '
                    'drop it'
                ) from error
        if not self._warned:
            self._warned = True
            print_log(
                'samples are taken by plain index, so their augmentation is not seeded; to train repeatably: '
                "sampler=dict(type='SeededInfiniteSampler')",
                logger='current',
                level=logging.WARNING,
            )
        return self.dataset[index]
