"""Toy streets as a data set in ADE20K's own folder layout."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ..errors import UserError
from ..files import write_atomically
from .camera import render, sample_view
from .light import sample_light
from .manifest import make_set
from .parts import Label
from .scene import make_street

# ADE20K's label values (class index + 1; 0 = other) in the order of the toy street's labels.
ADE_VALUE = {
    Label.OTHER: 0,
    Label.ROAD: 7,
    Label.SIDEWALK: 12,
    Label.BUILDING: 2,
    Label.TREE: 5,
    Label.PERSON: 13,
    Label.CAR: 21,
    Label.SKY: 3,
}
# To be raised when the same seed gives other pictures, so that an old set is not taken for a new one.
_VERSION = 1
_SPLITS = {'training': 'train', 'validation': 'val'}
_JPEG_QUALITY = 92


def ade_frame(seed: int, split: str, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One picture of the data set; it depends on nothing but the arguments.

    Args:
        seed: of the data set.
        split: 'training' or 'validation'.
        index: of the frame, from 1. Every frame has a street of its own.
        size: (height, width) in pixels.

    Returns:
        image (H, W, 3) uint8 RGB, and annotation (H, W) uint8 with ADE20K's label values, 0 = other.
    """
    sequence = np.random.SeedSequence((seed, list(_SPLITS).index(split), index))
    street = make_street(int(sequence.generate_state(1, np.uint64)[0]))
    rng = np.random.default_rng(sequence)
    camera = sample_view(rng, size)
    frame = render(street, camera, rng, sample_light(rng))
    values = np.array([ADE_VALUE[label] for label in Label], np.uint8)
    return frame.image, values[frame.label]


def write_ade(
    root: str | os.PathLike[str],
    num_train: int,
    num_val: int,
    size: tuple[int, int] = (224, 320),
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write a data set that reads like ADE20K.

    ROOT/images/{training,validation}/ADE_{train,val}_00000001.jpg are the pictures and
    ROOT/annotations/{training,validation}/ADE_{train,val}_00000001.png their labels (8 bit, ADE20K's values).
    ROOT/toy_street.json is written last. A complete set of the same parameters is left alone, one that was
    cut off is completed. More than one worker means spawned processes: a script that calls this needs the
    usual ``if __name__ == '__main__'``.

    Args:
        root: the folder; made if it is not there.
        num_train, num_val: how many frames.
        size: (height, width) in pixels.
        seed: the same seed gives the same files, whatever the number of workers.
        workers: how many processes.
        progress: called with (frames done, frames to do) after each frame.

    Returns:
        How many frames were made: 0 if all were there.

    Raises:
        UserError: if a number makes no sense, or if ROOT holds something else or another toy street.
    """
    if num_train < 0 or num_val < 0 or num_train + num_val == 0:
        raise UserError(f'num_train={num_train} and num_val={num_val} must be 0 or more, and not both 0')
    if len(size) != 2 or min(size) < 1 or seed < 0 or workers < 1:
        raise UserError(f'size={size} and workers={workers} must be at least 1, seed={seed} at least 0')
    parameters = dict(version=_VERSION, num_train=num_train, num_val=num_val, size=list(size), seed=seed)
    jobs = [
        (split, index)
        for split, count in zip(_SPLITS, (num_train, num_val), strict=True)
        for index in range(1, count + 1)
    ]
    return make_set(
        Path(root),
        parameters,
        jobs,
        partial(_complete, Path(root)),
        partial(_write_frame, Path(root), seed, tuple(size)),
        workers,
        progress,
    )


def _complete(root: Path, job: tuple[str, int]) -> bool:
    return all(path.exists() for path in _paths(root, *job))


def _paths(root: Path, split: str, index: int) -> tuple[Path, Path]:
    """The picture's and the annotation's file."""
    name = f'ADE_{_SPLITS[split]}_{index:08d}'
    return root / 'images' / split / f'{name}.jpg', root / 'annotations' / split / f'{name}.png'


def _write_frame(root: Path, seed: int, size: tuple[int, int], job: tuple[str, int]) -> None:
    image, annotation = ade_frame(seed, *job, size)
    files = _paths(root, *job)
    jpeg = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    write_atomically(files[0], jpeg.tobytes())
    write_atomically(files[1], cv2.imencode('.png', annotation)[1].tobytes())
