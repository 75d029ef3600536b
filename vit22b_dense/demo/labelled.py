"""Crops of toy streets with the classes that they show, to pretrain on."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..errors import UserError
from ..files import write_atomically
from .made_set import SPLITS, MadeSet, seeded_street
from .parts import Label
from .render import encode_jpeg, render, sample_light, sample_view

_SHORT = {'training': 'train', 'validation': 'val'}
NAMES = {label: label.name.lower() for label in Label if label is not Label.OTHER}
SHOWN = 0.1  # share of a crop's pixels from which on it shows a class
OVERLAP = 1.4  # the crops' area in all, of the frame's


@dataclass(frozen=True)
class LabelledSet(MadeSet):
    """A data set for `LabelledImages`. A job is a frame; every frame has a street of its own, which `AdeSet` has not.

    ROOT/images/{train,val}/FRAME_CROP.jpg are the crops, squares at random places, and
    ROOT/labels/{train,val}/FRAME_CROP.txt the names of their classes, one a line.
    """

    crop: int = 28  # side of a crop in pixels
    kind: ClassVar = {'format': 'labels', 'version': 2}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.crop <= min(self.size):
            raise UserError(f'crop={self.crop} must be at least 1 and at most {min(self.size)}, the height or width')

    def files(self, split: str, index: int) -> list[Path]:
        """The crops' files, and behind them the labels' files."""
        crops = round(OVERLAP * self.size[0] * self.size[1] / self.crop**2)
        names = [f'{_SHORT[split]}/{index:06d}_{crop}' for crop in range(crops)]
        return [self.root / f'images/{name}.jpg' for name in names] + [
            self.root / f'labels/{name}.txt' for name in names
        ]

    def make(self, job: tuple[str, int]) -> None:
        """Write a frame's crops and labels."""
        split, index = job
        street, rng = seeded_street(self.seed, len(SPLITS) + SPLITS.index(split), index)
        picture = render(street, sample_view(rng, self.size), rng, sample_light(rng))
        side, paths = self.crop, self.files(split, index)
        half = len(paths) // 2
        for image_path, label_path in zip(paths[:half], paths[half:], strict=True):
            top, left = (int(rng.integers(0, length - side + 1)) for length in self.size)
            window = np.s_[top : top + side, left : left + side]
            shares = np.bincount(picture.label[window].ravel(), minlength=len(Label)) / side**2
            write_atomically(image_path, encode_jpeg(picture.image[window]))
            write_atomically(
                label_path, ''.join(f'{name}\n' for label, name in NAMES.items() if shares[label] >= SHOWN)
            )
