"""Toy streets as a data set in ADE20K's own folder layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from ..files import write_atomically
from .made_set import SPLITS, MadeSet, seeded_street
from .parts import Label
from .render import encode_jpeg, render, sample_light, sample_view

# ADE20K's label values (class index + 1; 0 = other) of the toy street's labels.
ADE_VALUE = dict(zip(Label, (0, 7, 12, 2, 5, 13, 21, 3), strict=True))
_SHORT = {'training': 'train', 'validation': 'val'}


@dataclass(frozen=True)
class AdeSet(MadeSet):
    """A data set that reads like ADE20K. A job is a frame, and every frame has a street of its own.

    ROOT/images/{training,validation}/ADE_{train,val}_00000001.jpg are the pictures and
    ROOT/annotations/{training,validation}/ADE_{train,val}_00000001.png their labels (8 bit, ADE20K's values).
    """

    kind: ClassVar = {'version': 1}

    def frame(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8 RGB, and annotation (H, W) uint8 with ADE20K's label values, 0 = other."""
        street, rng = seeded_street(self.seed, SPLITS.index(split), index)
        camera = sample_view(rng, self.size)
        picture = render(street, camera, rng, sample_light(rng))
        return picture.image, np.array(list(ADE_VALUE.values()), np.uint8)[picture.label]

    def files(self, split: str, index: int) -> list[Path]:
        """The picture's and the annotation's file."""
        name = f'{split}/ADE_{_SHORT[split]}_{index:08d}'
        return [self.root / f'images/{name}.jpg', self.root / f'annotations/{name}.png']

    def make(self, job: tuple[str, int]) -> None:
        """Write a frame."""
        image, annotation = self.frame(*job)
        picture, labels = self.files(*job)
        write_atomically(picture, encode_jpeg(image))
        write_atomically(labels, cv2.imencode('.png', annotation)[1].tobytes())
