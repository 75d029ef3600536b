"""Crops of toy streets with the classes that they show, to pretrain on."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..files import write_atomically
from .made_set import SPLITS, MadeSet, seeded_street
from .parts import Label
from .render import encode_jpeg, render, sample_light, sample_view

_SHORT = {'training': 'train', 'validation': 'val'}
NAMES = {label: label.name.lower() for label in Label if label is not Label.OTHER}
SHOWN = 0.01  # share of a crop's pixels from which on it shows a class
CROPS = 8  # of a frame
SIDE = 112  # of a crop, pixels


@dataclass(frozen=True)
class LabelledSet(MadeSet):
    """A data set for `LabelledImages`. A job is a frame; every frame has a street of its own, which `AdeSet` has not.

    ROOT/images/{train,val}/FRAME_CROP.jpg are the crops, `SIDE` pixels wide at random places, and
    ROOT/labels/{train,val}/FRAME_CROP.txt the names of their classes, one a line.
    """

    kind: ClassVar = {'format': 'labels', 'version': 1}

    def files(self, split: str, index: int) -> list[Path]:
        """The crops' files, and behind them the labels' files."""
        names = [f'{_SHORT[split]}/{index:06d}_{crop}' for crop in range(CROPS)]
        return [self.root / f'images/{name}.jpg' for name in names] + [
            self.root / f'labels/{name}.txt' for name in names
        ]

    def make(self, job: tuple[str, int]) -> None:
        """Write a frame's crops and labels."""
        split, index = job
        street, rng = seeded_street(self.seed, len(SPLITS) + SPLITS.index(split), index)
        picture = render(street, sample_view(rng, self.size), rng, sample_light(rng))
        side = min(SIDE, *self.size)
        paths = self.files(split, index)
        for image_path, label_path in zip(paths[:CROPS], paths[CROPS:], strict=True):
            top, left = (int(rng.integers(0, length - side + 1)) for length in self.size)
            window = np.s_[top : top + side, left : left + side]
            shares = np.bincount(picture.label[window].ravel(), minlength=len(Label)) / side**2
            write_atomically(image_path, encode_jpeg(picture.image[window]))
            write_atomically(
                label_path, ''.join(f'{name}\n' for label, name in NAMES.items() if shares[label] >= SHOWN)
            )
