"""Nested few-shot subsets, defined by the data alone."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

from mmseg.registry import DATASETS

from ..datasets.empty import empty_named, no_samples
from ..datasets.names import sample_names
from ..errors import UserError


def parse_fraction(fraction: str | float) -> Fraction:
    """A fraction such as ``'1/16'``, ``0.25`` or ``1``.

    Raises:
        UserError: not a number in (0, 1].
    """
    try:
        value = Fraction(fraction).limit_denominator(10**9)
    except (ValueError, TypeError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1 or isinstance(fraction, bool):
        raise UserError(f"fraction={fraction!r}: give a string like '1/16' or a number in (0, 1]; 1 is everything")
    return value


def select(names: Sequence[str], units: Sequence[str], fraction: Fraction, seed: int) -> list[int]:
    """The positions of a subset: units in the order of SHA-256 of ``"SEED:UNIT"``, the first of them.

    Args:
        names: one a sample; decides the order within the result.
        units: one a sample; samples of one unit stay together.
        fraction: of the units, rounded to the nearest number (half to even), at least one.
        seed: part of the hash.

    Returns:
        The positions, sorted by name, so that the order of files does not matter.
    """
    order = sorted(set(units), key=lambda unit: hashlib.sha256(_utf8(f'{seed}:{unit}')).digest())
    kept = set(order[: max(1, round(fraction * len(order)))])
    return sorted((i for i, unit in enumerate(units) if unit in kept), key=lambda i: (names[i], i))


def _utf8(text: str) -> bytes:
    """UTF-8; of a file's name that is none, its own bytes."""
    return text.encode(errors='surrogateescape')


def digest(names: Sequence[str]) -> str:
    """A fingerprint of a subset: SHA-256, as hexadecimal digits, of its sorted names, one per line, in UTF-8."""
    return hashlib.sha256(_utf8(''.join(f'{name}\n' for name in sorted(names)))).hexdigest()


@DATASETS.register_module()
class FewShotSubset:
    """A fraction of a data set: nested (1/16 lies inside 1/8, and so on) and the same everywhere.

    Independent of file order, machine, data root, worker count and library versions: see `select`.

    Args:
        dataset: an mmengine data set or its config.
        fraction: a string like ``'1/16'`` or a number in (0, 1].
        seed: a different seed gives a different subset.
        unit: what is kept or left out as a whole: None for the data set's own choice (its attribute
            ``few_shot_unit``, else each sample), ``'frame'`` for each sample, or a key of the samples' information
            such as ``'segment'``.

    Raises:
        UserError: a fraction outside (0, 1], an empty data set, or a unit that the samples do not have.
    """

    def __init__(self, dataset: Any, fraction: str | float, seed: int = 0, unit: str | None = None) -> None:
        self.fraction, self.seed, self.unit = parse_fraction(fraction), seed, unit
        with empty_named(dataset):
            self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if getattr(self.dataset, '_fully_initialized', True):
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """Of the wrapped data set."""
        return self.dataset.metainfo

    @cached_property
    def indices(self) -> list[int]:
        """Positions of the chosen samples in the wrapped data set."""
        with empty_named(self.dataset):
            self.dataset.full_init()
        names = sample_names(self.dataset)
        if not names:
            raise no_samples(self.dataset)
        return select(names, self._units(names), self.fraction, self.seed)

    def full_init(self) -> None:
        """Load the annotations of the wrapped data set and choose the subset."""
        _ = self.indices

    @property
    def names(self) -> list[str]:
        """The chosen samples' image paths relative to the data root, sorted."""
        indices, names = self.indices, sample_names(self.dataset)
        return [names[i] for i in indices]

    @property
    def units(self) -> list[str]:
        """The unit of each chosen sample."""
        indices, units = self.indices, self._units(sample_names(self.dataset))
        return [units[i] for i in indices]

    def _units(self, names: list[str]) -> list[str]:
        unit = self.unit or getattr(self.dataset, 'few_shot_unit', 'frame')
        if unit == 'frame':
            return names
        infos = [self.dataset.get_data_info(i) for i in range(len(self.dataset))]
        if any(unit not in info for info in infos):
            raise UserError(
                f'unit={unit!r}: {type(self.dataset).__name__} does not have it; its samples have '
                f"{sorted(infos[0])}, and 'frame' stands for each sample"
            )
        return [str(info[unit]) for info in infos]

    def get_data_info(self, idx: int) -> dict:
        """The information of a chosen sample."""
        return self.dataset.get_data_info(self.indices[idx])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, idx: int) -> Any:
        return self.dataset[self.indices[idx]]
