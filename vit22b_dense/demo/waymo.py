"""Toy streets as a data set in the Waymo Open Dataset's v2 schema: cameras, five LiDARs, a moving car."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..errors import UserError
from ..waymo.parquet import COMPONENTS
from ..waymo.types import CAMERAS, TOP, CameraCalibration, CameraImage, Frame, LaserCalibration, LaserScan
from ..waymo.writer import camera_projections, laser_rays, write_segment
from .made_set import SPLITS, MadeSet, seeded_street
from .parts import rotation
from .render import Camera, encode_jpeg, render, rigid, sample_light

# Where each camera looks (yaw, radians) and when it exposes (seconds from the frame's own time), by number.
CAMERA_AIM = {1: (0.0, 0.0), 2: (0.78, -0.015), 3: (-0.78, 0.015), 4: (1.57, -0.03), 5: (-1.57, 0.03)}
# Turn (yaw, radians) and place (metres, vehicle frame) of LiDAR 1 to 5.
_LASER_YAW = (2.6, 0.0, 1.57, -1.57, 3.1)
_LASER_PLACE = ((1.4, 0.0, 2.1), (3.6, 0.0, 0.7), (3.2, 1.0, 1.0), (3.2, -1.0, 1.0), (-1.1, 0.0, 0.5))
# Rows and columns of TOP and of the others, how far they see (metres), and the share of returns that is lost.
_TOP_SHAPE, _NEAR_SHAPE = (64, 1325), (32, 96)
_TOP_REACH, _NEAR_REACH, _LOST = 75.0, 20.0, 0.03
# A frame each so many seconds, at this speed: the car stays on the stretch that the street keeps free.
_FRAMES, _STEP, _SPEED, _SPIN = 3, 0.4, 6.0, 0.1
_FIRST = 1_500_000_000_000_000  # microseconds
# The street in the world: far from its origin and turned, as the released ones are.
_WORLD_YAW, _WORLD_PLACE = 0.7, (12_000.0, -7_000.0, 80.0)
_WORLD = rigid(rotation(2, _WORLD_YAW), _WORLD_PLACE)


def street_from_vehicle(frame: int, delay: float | np.ndarray = 0.0) -> np.ndarray:
    """Where the car is some seconds after a frame's own time, (..., 4, 4), metres."""
    pose = np.zeros((*np.shape(delay), 4, 4)) + np.eye(4)
    pose[..., 0, 3] = _SPEED * ((frame - (_FRAMES - 1) / 2) * _STEP + delay)
    return pose


@dataclass(frozen=True)
class WaymoSet(MadeSet):
    """A data set that reads like the released Waymo files, ROOT/SPLIT/COMPONENT/SEGMENT.parquet.

    A job is a segment of three frames: a car drives a few metres down a street of its own.
    """

    cameras: tuple[str, ...] = ('FRONT',)
    kind: ClassVar = {'format': 'waymo', 'version': 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cameras or not set(self.cameras) <= set(CAMERAS):
            raise UserError(f'cameras={list(self.cameras)}: choose some of {", ".join(CAMERAS)}')

    def sensors(self) -> tuple[dict[int, CameraCalibration], dict[int, LaserCalibration]]:
        """The car's cameras and LiDARs, by number."""
        height, width = self.size
        f = 1.06 * width  # as Waymo's: a field of view of 50 degrees
        intrinsic = np.array([f, f, width / 2, height / 2, 0, 0, 0, 0, 0], np.float64)
        eyes, lasers = {}, {}
        for n in sorted(CAMERAS[name] for name in self.cameras):
            extrinsic = rigid(rotation(2, CAMERA_AIM[n][0]), (1.5, 0.1 * (n > 1), 2.1))
            eyes[n] = CameraCalibration(n, intrinsic, extrinsic, width, height)
        for n, (yaw, place) in enumerate(zip(_LASER_YAW, _LASER_PLACE, strict=True), 1):
            # TOP's beams lie closer together near the horizon and are listed; the others' are evenly spread.
            values = np.radians(2.4 - 20.0 * np.linspace(1, 0, _TOP_SHAPE[0]) ** 1.4) if n == TOP else None
            low, high = np.radians((-17.6, 2.4) if n == TOP else (-60.0, 25.0))
            lasers[n] = LaserCalibration(n, rigid(rotation(2, yaw), place), low, high, values)
        return eyes, lasers

    def frames(self, split: str, index: int) -> Iterator[Frame]:
        """The frames of a segment."""
        street, rng = seeded_street(self.seed, 1 + SPLITS.index(split), index, 22)
        light = sample_light(rng)
        eyes, lasers = self.sensors()
        for i in range(_FRAMES):
            images, scans, here = {}, {}, street_from_vehicle(i)
            for n, eye in eyes.items():
                pose = street_from_vehicle(i, CAMERA_AIM[n][1])
                camera = Camera(eye.width, eye.height, eye.intrinsic[0], pose @ eye.extrinsic)
                images[n] = CameraImage(encode_jpeg(render(street, camera, rng, light).image), _WORLD @ pose)
            poses = {n: image.world_from_vehicle for n, image in images.items()}
            for n, laser in lasers.items():
                shape, reach, pixel_pose = _NEAR_SHAPE, _NEAR_REACH, None
                if n == TOP:
                    # It turns while the car moves: a pose for each column, as roll, pitch, yaw and place.
                    shape, reach = _TOP_SHAPE, _TOP_REACH
                    x = street_from_vehicle(i, _SPIN * (np.arange(shape[1]) / shape[1] - 0.5))[:, 0, 3:]
                    place = _WORLD_PLACE + x * _WORLD[:3, 0]
                    turn = np.broadcast_to([0.0, 0.0, _WORLD_YAW], place.shape)
                    pixel_pose = np.broadcast_to(np.concatenate([turn, place], 1), (*shape, 6)).astype(np.float32)
                origin, direction = laser_rays(laser, *shape, _WORLD @ here, pixel_pose)
                rays = ((v @ _WORLD[:3, :3]).reshape(-1, 3) for v in (origin - _WORLD_PLACE, direction))
                far = street.nearest(*rays)[0].reshape(shape)
                seen = (far < reach) & (rng.random(shape) > _LOST)
                ranges = np.zeros((*shape, 4), np.float32)
                ranges[..., 0] = np.where(seen, far, -1.0)
                points = origin + np.where(seen, far, 0.0)[..., None] * direction
                projections = camera_projections(points, seen, eyes.values(), poses)
                scans[n] = LaserScan({1: ranges}, {1: projections}, pixel_pose)
            yield Frame(_FIRST + round(i * _STEP * 1e6), _WORLD @ here, images, scans)

    def files(self, split: str, index: int) -> list[Path]:
        """The segment's components."""
        return [self.root / split / part / f'toy_{split}_{index:05d}.parquet' for part in COMPONENTS]

    def make(self, job: tuple[str, int]) -> None:
        """Write a segment."""
        sensors = (calibrations.values() for calibrations in self.sensors())
        name = self.files(*job)[0].stem
        write_segment(self.root, job[0], name, *sensors, self.frames(*job), compression='zstd')
