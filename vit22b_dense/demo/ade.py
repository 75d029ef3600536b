"""Toy streets as a data set in ADE20K's own folder layout."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ..files import write_atomically
from .made_set import SPLITS, make_set, seeded_street
from .parts import Label
from .render import encode_jpeg, render, sample_light, sample_view

# ADE20K's label values (class index + 1; 0 = other) of the toy street's labels.
ADE_VALUE = dict(zip(Label, (0, 7, 12, 2, 5, 13, 21, 3), strict=True))
# To be raised when the same seed gives other pictures, so that an old set is not taken for a new one.
_VERSION = 1
_SHORT = dict(zip(SPLITS, ('train', 'val'), strict=True))


def ade_frame(seed: int, split: str, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One picture of a split, a function of the arguments alone: every index, from 1, has a street of its own.

    Returns:
        image (H, W, 3) uint8 RGB, and annotation (H, W) uint8 with ADE20K's label values, 0 = other.
    """
    street, rng = seeded_street(seed, SPLITS.index(split), index)
    camera = sample_view(rng, size)
    picture = render(street, camera, rng, sample_light(rng))
    return picture.image, np.array(list(ADE_VALUE.values()), np.uint8)[picture.label]


def write_ade(
    root: str | os.PathLike[str],
    num_train: int,
    num_val: int,
    size: tuple[int, int] = (224, 320),
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write a data set that reads like ADE20K. A job is a frame; all is as in `make_set`.

    ROOT/images/{training,validation}/ADE_{train,val}_00000001.jpg are the pictures and
    ROOT/annotations/{training,validation}/ADE_{train,val}_00000001.png their labels (8 bit, ADE20K's values).
    """
    root = Path(root)
    parameters = dict(version=_VERSION, num_train=num_train, num_val=num_val, size=list(size), seed=seed)
    return make_set(root, parameters, partial(_files, root), partial(_write, root, seed, size), workers, progress)


def _files(root: Path, split: str, index: int) -> tuple[Path, Path]:
    name = f'ADE_{_SHORT[split]}_{index:08d}'
    return root / 'images' / split / f'{name}.jpg', root / 'annotations' / split / f'{name}.png'


def _write(root: Path, seed: int, size: tuple[int, int], job: tuple[str, int]) -> None:
    image, annotation = ade_frame(seed, *job, size)
    picture, labels = _files(root, *job)
    write_atomically(picture, encode_jpeg(image))
    write_atomically(labels, cv2.imencode('.png', annotation)[1].tobytes())
