"""Toy streets as a data set in the Waymo Open Dataset's v2 schema: cameras, five LiDARs, a moving car."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ..errors import UserError
from ..waymo.types import (
    CAMERAS,
    LASERS,
    SPLITS,
    TOP,
    CameraCalibration,
    CameraImage,
    Frame,
    LaserCalibration,
    LaserScan,
)
from .camera import Camera, render
from .light import Light, sample_light
from .manifest import make_set
from .scene import Street, make_street

# To be raised when the same seed gives other data.
_VERSION = 1
_JPEG_QUALITY = 92
# Where the cameras look and when they expose, by number: radians, and seconds from the frame's own time.
_CAMERA_YAW = {1: 0.0, 2: 0.78, 3: -0.78, 4: 1.57, 5: -1.57}
_CAMERA_DELAY = {1: 0.0, 2: -0.015, 3: 0.015, 4: -0.03, 5: 0.03}
# Turn (yaw, radians) and place (metres, vehicle frame) of each LiDAR.
_LASER_PLACE = {
    1: (2.6, (1.4, 0.0, 2.1)),
    2: (0.0, (3.6, 0.0, 0.7)),
    3: (1.57, (3.2, 1.0, 1.0)),
    4: (-1.57, (3.2, -1.0, 1.0)),
    5: (3.1, (-1.1, 0.0, 0.5)),
}
TOP_SHAPE, NEAR_SHAPE = (64, 1325), (32, 96)
# How far they see, metres, and the share of returns that is lost.
_TOP_REACH, _NEAR_REACH, _LOST = 75.0, 20.0, 0.03
# A frame each so many seconds, at this speed: the car stays on the stretch that the street keeps free.
_STEP, _SPEED, _SPIN = 0.4, 6.0, 0.1
FRAMES = 3
_FIRST = 1_500_000_000_000_000  # microseconds
# The street in the world: far from its origin and turned, as the released ones are.
_WORLD_YAW, _WORLD_PLACE = 0.7, (12_000.0, -7_000.0, 80.0)


def _transform(yaw: float, place: Sequence[float]) -> np.ndarray:
    """(4, 4): a turn about z, and a translation."""
    result = np.eye(4)
    result[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    result[:3, 3] = place
    return result


def _car_x(seconds: float | np.ndarray) -> float | np.ndarray:
    """Where the car is along the street at a time from the segment's middle, metres."""
    return _SPEED * seconds


def _world_from_vehicle(seconds: float) -> np.ndarray:
    return _transform(_WORLD_YAW, _WORLD_PLACE) @ _transform(0.0, (_car_x(seconds), 0.0, 0.0))


def calibrations(
    size: tuple[int, int], cameras: Sequence[str]
) -> tuple[dict[int, CameraCalibration], dict[int, LaserCalibration]]:
    """The car's sensors, by number.

    Args:
        size: (height, width) of the pictures; the field of view is Waymo's, 50 degrees.
        cameras: names.
    """
    height, width = size
    f = 1.06 * width
    intrinsic = np.array([f, f, width / 2, height / 2, 0, 0, 0, 0, 0], np.float64)
    eyes = {
        n: CameraCalibration(n, intrinsic, _transform(_CAMERA_YAW[n], (1.5, 0.1 * (n > 1), 2.1)), width, height)
        for n in sorted(CAMERAS[name] for name in cameras)
    }
    lasers = {}
    for n in sorted(LASERS.values()):
        yaw, place = _LASER_PLACE[n]
        # TOP's beams lie closer together near the horizon and are listed; the others' are evenly spread.
        values = np.radians(2.4 - 20.0 * np.linspace(1, 0, TOP_SHAPE[0]) ** 1.4) if n == TOP else None
        low, high = np.radians((-17.6, 2.4) if n == TOP else (-60.0, 25.0))
        lasers[n] = LaserCalibration(n, _transform(yaw, place), float(low), float(high), values)
    return eyes, lasers


def segment_frames(
    seed: int, split: str, index: int, size: tuple[int, int], cameras: Sequence[str] = ('FRONT',)
) -> Iterator[Frame]:
    """The frames of one segment: a car drives a few metres down a street of its own.

    Args:
        seed: of the data set.
        split: one of Waymo's.
        index: of the segment, from 1.
        size: (height, width) of the pictures.
        cameras: names of the cameras.
    """
    sequence = np.random.SeedSequence((seed, 1 + SPLITS.index(split), index, 22))
    street = make_street(int(sequence.generate_state(1, np.uint64)[0]))
    rng = np.random.default_rng(sequence)
    light = sample_light(rng)
    eyes, lasers = calibrations(size, cameras)
    for i in range(FRAMES):
        seconds = (i - (FRAMES - 1) / 2) * _STEP
        poses = {n: _world_from_vehicle(seconds + _CAMERA_DELAY[n]) for n in eyes}
        images = {
            n: CameraImage(_photograph(street, eye, _car_x(seconds + _CAMERA_DELAY[n]), light, rng), poses[n])
            for n, eye in eyes.items()
        }
        scans = {n: _scan(street, laser, seconds, eyes, poses, rng) for n, laser in lasers.items()}
        yield Frame(_FIRST + round(i * _STEP * 1e6), _world_from_vehicle(seconds), images, scans)


def _photograph(street: Street, eye: CameraCalibration, x: float, light: Light, rng: np.random.Generator) -> bytes:
    pose = _transform(0.0, (x, 0.0, 0.0)) @ eye.extrinsic
    frame = render(street, Camera(eye.width, eye.height, float(eye.intrinsic[0]), pose), rng, light)
    return cv2.imencode('.jpg', frame.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def _scan(
    street: Street,
    laser: LaserCalibration,
    seconds: float,
    eyes: dict[int, CameraCalibration],
    poses: dict[int, np.ndarray],
    rng: np.random.Generator,
) -> LaserScan:
    """One spin. TOP turns while the car moves, so each column has a pose of its own."""
    from ..waymo.writer import camera_projections, laser_rays  # needs pyarrow

    top = laser.laser == TOP
    shape = TOP_SHAPE if top else NEAR_SHAPE
    pixel_pose = None
    if top:
        x = _car_x(seconds + _SPIN * (np.arange(shape[1]) / shape[1] - 0.5))
        place = _WORLD_PLACE + x[:, None] * np.array([np.cos(_WORLD_YAW), np.sin(_WORLD_YAW), 0.0])
        turn = np.broadcast_to([0.0, 0.0, _WORLD_YAW], place.shape)
        pixel_pose = np.broadcast_to(np.concatenate([turn, place], 1), (*shape, 6)).astype(np.float32)
    origin, direction = laser_rays(laser, *shape, _world_from_vehicle(seconds), pixel_pose)
    turned = _transform(_WORLD_YAW, (0.0, 0.0, 0.0))[:3, :3]
    hits = street.cast(((origin - _WORLD_PLACE) @ turned).reshape(-1, 3), (direction @ turned).reshape(-1, 3))
    far = hits.distance.reshape(shape)
    seen = (far < (_TOP_REACH if top else _NEAR_REACH)) & (rng.random(shape) > _LOST)
    image = np.zeros((*shape, 4), np.float32)
    image[..., 0] = np.where(seen, far, -1.0)
    points = origin + np.where(seen, far, 0.0)[..., None] * direction
    return LaserScan({1: image}, {1: camera_projections(points, seen, eyes.values(), poses)}, pixel_pose)


def write_waymo(
    root: str | os.PathLike[str],
    num_train: int,
    num_val: int,
    size: tuple[int, int] = (224, 336),
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    cameras: Sequence[str] = ('FRONT',),
) -> int:
    """Write a data set that reads like the released Waymo files, ROOT/SPLIT/COMPONENT/SEGMENT.parquet.

    A complete set of the same parameters is left alone, one that was cut off is completed.

    Args:
        root: the folder; made if it is not there.
        num_train, num_val: how many segments, of three frames each.
        size: (height, width) of the pictures in pixels.
        seed: the same seed gives the same data, whatever the number of workers.
        workers: how many processes; more than one are spawned.
        progress: called with (segments done, segments to do) after each.
        cameras: names of the cameras.

    Returns:
        How many segments were made.

    Raises:
        UserError: if an argument makes no sense, ROOT holds something else, or pyarrow is missing.
    """
    from ..waymo import writer  # noqa: F401  (an error about pyarrow comes before anything is written)

    if num_train < 0 or num_val < 0 or num_train + num_val == 0:
        raise UserError(f'num_train={num_train} and num_val={num_val} must be 0 or more, and not both 0')
    if len(size) != 2 or min(size) < 1 or seed < 0 or workers < 1:
        raise UserError(f'size={size} and workers={workers} must be at least 1, seed={seed} at least 0')
    if not cameras or not set(cameras) <= set(CAMERAS):
        raise UserError(f'cameras={list(cameras)}: choose some of {", ".join(CAMERAS)}')
    parameters = dict(format='waymo', version=_VERSION, num_train=num_train, num_val=num_val, size=list(size),
                      seed=seed, cameras=list(cameras))  # fmt: skip
    jobs = [(s, i) for s, count in zip(SPLITS, (num_train, num_val), strict=True) for i in range(1, count + 1)]
    make = partial(_write_segment, Path(root), seed, tuple(size), tuple(cameras))
    return make_set(Path(root), parameters, jobs, partial(_complete, Path(root)), make, workers, progress)


def _name(split: str, index: int) -> str:
    return f'toy_{split}_{index:05d}'


def _complete(root: Path, job: tuple[str, int]) -> bool:
    from ..waymo.parquet import COMPONENTS

    return all((root / job[0] / part / f'{_name(*job)}.parquet').exists() for part in COMPONENTS)


def _write_segment(
    root: Path, seed: int, size: tuple[int, int], cameras: tuple[str, ...], job: tuple[str, int]
) -> None:
    from ..waymo.writer import write_segment

    eyes, lasers = calibrations(size, cameras)
    frames = segment_frames(seed, *job, size, cameras)
    write_segment(root, job[0], _name(*job), eyes.values(), lasers.values(), frames, compression='zstd')
