"""Toy streets as a data set in the Waymo Open Dataset's v2 schema: cameras, five LiDARs, a moving car."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..waymo.parquet import COMPONENTS
from ..waymo.types import (
    CAMERAS,
    LASERS,
    TOP,
    CameraCalibration,
    CameraImage,
    Frame,
    LaserCalibration,
    LaserScan,
)
from ..waymo.writer import camera_projections, laser_rays, write_segment
from .made_set import SPLITS, Job, make_set, seeded_street
from .parts import rotation
from .raycast import Street
from .render import Camera, encode_jpeg, render, rigid, sample_light

# To be raised when the same seed gives other data.
_VERSION = 1
# Where the cameras look and when they expose, by number: radians, and seconds from the frame's own time.
_CAMERA_YAW = {1: 0.0, 2: 0.78, 3: -0.78, 4: 1.57, 5: -1.57}
CAMERA_DELAY = {1: 0.0, 2: -0.015, 3: 0.015, 4: -0.03, 5: 0.03}
# Turn (yaw, radians) and place (metres, vehicle frame) of each LiDAR.
_LASER_PLACE = {
    1: (2.6, (1.4, 0.0, 2.1)),
    2: (0.0, (3.6, 0.0, 0.7)),
    3: (1.57, (3.2, 1.0, 1.0)),
    4: (-1.57, (3.2, -1.0, 1.0)),
    5: (3.1, (-1.1, 0.0, 0.5)),
}
# Rows and columns, and how far they see (metres); the share of returns that is lost.
_TOP_SHAPE, _NEAR_SHAPE = (64, 1325), (32, 96)
_TOP_REACH, _NEAR_REACH, _LOST = 75.0, 20.0, 0.03
# A frame each so many seconds, at this speed: the car stays on the stretch that the street keeps free.
STEP, _SPEED, _SPIN = 0.4, 6.0, 0.1
_FRAMES = 3
_FIRST = 1_500_000_000_000_000  # microseconds
# The street in the world: far from its origin and turned, as the released ones are.
_WORLD_YAW, _WORLD_PLACE = 0.7, (12_000.0, -7_000.0, 80.0)
_WORLD = rigid(rotation(2, _WORLD_YAW), _WORLD_PLACE)


def street_from_vehicle(seconds: float) -> np.ndarray:
    """Where the car is at a time from the segment's middle, (4, 4), metres."""
    return rigid(np.eye(3), (_SPEED * seconds, 0.0, 0.0))


def calibrations(
    size: tuple[int, int], cameras: Sequence[str] = ('FRONT',)
) -> tuple[dict[int, CameraCalibration], dict[int, LaserCalibration]]:
    """The car's sensors, by number.

    Args:
        size: (height, width) of the pictures; the field of view is Waymo's, 50 degrees.
        cameras: names.
    """
    height, width = size
    f = 1.06 * width
    intrinsic = np.array([f, f, width / 2, height / 2, 0, 0, 0, 0, 0], np.float64)
    eyes = {}
    for n in sorted(CAMERAS[name] for name in cameras):
        extrinsic = rigid(rotation(2, _CAMERA_YAW[n]), (1.5, 0.1 * (n > 1), 2.1))
        eyes[n] = CameraCalibration(n, intrinsic, extrinsic, width, height)
    lasers = {}
    for n in sorted(LASERS.values()):
        yaw, place = _LASER_PLACE[n]
        # TOP's beams lie closer together near the horizon and are listed; the others' are evenly spread.
        values = np.radians(2.4 - 20.0 * np.linspace(1, 0, _TOP_SHAPE[0]) ** 1.4) if n == TOP else None
        low, high = np.radians((-17.6, 2.4) if n == TOP else (-60.0, 25.0))
        lasers[n] = LaserCalibration(n, rigid(rotation(2, yaw), place), float(low), float(high), values)
    return eyes, lasers


def segment_frames(
    seed: int, split: str, index: int, eyes: dict[int, CameraCalibration], lasers: dict[int, LaserCalibration]
) -> Iterator[Frame]:
    """The frames of one segment: a car drives a few metres down a street of its own.

    Args:
        seed: of the data set.
        split: 'training' or 'validation'.
        index: of the segment, from 1.
        eyes, lasers: the car's sensors, from `calibrations`.
    """
    street, rng = seeded_street(seed, 1 + SPLITS.index(split), index, 22)
    light = sample_light(rng)
    for i in range(_FRAMES):
        seconds = (i - (_FRAMES - 1) / 2) * STEP
        images = {}
        for n, eye in eyes.items():
            pose = street_from_vehicle(seconds + CAMERA_DELAY[n])
            camera = Camera(eye.width, eye.height, eye.intrinsic[0], pose @ eye.extrinsic)
            images[n] = CameraImage(encode_jpeg(render(street, camera, rng, light).image), _WORLD @ pose)
        poses = {n: image.world_from_vehicle for n, image in images.items()}
        scans = {n: _scan(street, laser, seconds, eyes, poses, rng) for n, laser in lasers.items()}
        yield Frame(_FIRST + round(i * STEP * 1e6), _WORLD @ street_from_vehicle(seconds), images, scans)


def _scan(
    street: Street,
    laser: LaserCalibration,
    seconds: float,
    eyes: dict[int, CameraCalibration],
    poses: dict[int, np.ndarray],
    rng: np.random.Generator,
) -> LaserScan:
    """One spin. TOP turns while the car moves, so each column has a pose of its own."""
    shape, reach, pixel_pose = _NEAR_SHAPE, _NEAR_REACH, None
    if laser.laser == TOP:
        shape, reach = _TOP_SHAPE, _TOP_REACH
        x = _SPEED * (seconds + _SPIN * (np.arange(shape[1]) / shape[1] - 0.5))
        place = _WORLD_PLACE + x[:, None] * _WORLD[:3, 0]
        turn = np.broadcast_to([0.0, 0.0, _WORLD_YAW], place.shape)
        pixel_pose = np.broadcast_to(np.concatenate([turn, place], 1), (*shape, 6)).astype(np.float32)
    origin, direction = laser_rays(laser, *shape, _WORLD @ street_from_vehicle(seconds), pixel_pose)
    rays = (((v @ _WORLD[:3, :3]).reshape(-1, 3)) for v in (origin - _WORLD_PLACE, direction))
    far = street.nearest(*rays)[0].reshape(shape)
    seen = (far < reach) & (rng.random(shape) > _LOST)
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
        UserError: if an argument makes no sense, or ROOT holds something else.
    """
    if not cameras or not set(cameras) <= set(CAMERAS):
        raise UserError(f'cameras={list(cameras)}: choose some of {", ".join(CAMERAS)}')
    root = Path(root)
    parameters = dict(format='waymo', version=_VERSION, num_train=num_train, num_val=num_val, size=list(size),
                      seed=seed, cameras=list(cameras))  # fmt: skip
    write = partial(_write, root, seed, size, cameras)
    return make_set(root, parameters, partial(_files, root), write, workers, progress)


def _name(job: Job) -> str:
    split, index = job
    return f'toy_{split}_{index:05d}'


def _files(root: Path, job: Job) -> list[Path]:
    return [root / job[0] / part / f'{_name(job)}.parquet' for part in COMPONENTS]


def _write(root: Path, seed: int, size: tuple[int, int], cameras: Sequence[str], job: Job) -> None:
    eyes, lasers = calibrations(size, cameras)
    frames = segment_frames(seed, *job, eyes, lasers)
    write_segment(root, job[0], _name(job), eyes.values(), lasers.values(), frames, compression='zstd')
