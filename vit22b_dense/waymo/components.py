"""Reads the sensors of one Waymo Open Dataset v2 segment from its parquet components."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .parquet import Component, Key
from .types import TOP, CameraCalibration, CameraImage, FrameError, LaserCalibration, LaserScan, SegmentError, Settings

INTRINSICS = ('f_u', 'f_v', 'c_u', 'c_v', 'k1', 'k2', 'p1', 'p2', 'k3')
LOAD_BYTES = 384 << 20  # of frames held in memory; a full-size frame takes 30 MB a return

_ALWAYS = (
    'vehicle_pose',
    'camera_calibration',
    'camera_image',
    'lidar_calibration',
    'lidar',
    'lidar_camera_projection',
)
_PER_FRAME = ('vehicle_pose', 'camera_image', 'lidar', 'lidar_camera_projection', 'lidar_pose')


def needed_components(lasers: tuple[int, ...]) -> tuple[str, ...]:
    """Components that depth from these lasers needs: `lidar_pose` only for TOP."""
    return (*_ALWAYS, 'lidar_pose') if TOP in lasers else _ALWAYS


class SegmentReader:
    """The sensors of one segment. A context manager; closes its files on leaving.

    Attributes:
        cameras: camera number to calibration, of all cameras that have one.
        lasers: laser number to calibration, of the lasers asked for.
        timestamps: all timestamps that any sensor has, in the order of `iterate`.
    """

    def __init__(self, root: Path, split: str, name: str, settings: Settings) -> None:
        """Open the components, read the calibrations and index the rows.

        Args:
            root: folder of the released data, `ROOT/SPLIT/COMPONENT/SEGMENT.parquet`.
            split: its split, such as `training`.
            name: the segment (file name without `.parquet`).
            settings: the sensors to read.

        Raises:
            SegmentError: a component is missing, truncated or of another layout, or a laser has no
                calibration.
        """
        self.settings = settings
        images = [f'range_image_return{n}.{part}' for n in settings.returns for part in ('values', 'shape')]
        columns = {
            'vehicle_pose': ['world_from_vehicle.transform'],
            'camera_calibration': [f'intrinsic.{i}' for i in INTRINSICS] + ['extrinsic.transform', 'width', 'height'],
            'camera_image': ['image', 'pose.transform'],
            'lidar_calibration': ['extrinsic.transform'] + [f'beam_inclination.{i}' for i in ('min', 'max', 'values')],
            'lidar': images,
            'lidar_camera_projection': images,
            'lidar_pose': ['range_image_return1.values', 'range_image_return1.shape'],
        }
        self._parts: dict[str, Component] = {}
        self._loaded: dict[str, dict[Key, dict[str, Any]]] = {}
        try:
            for part in needed_components(settings.lasers):
                path = Path(root) / split / part / f'{name}.parquet'
                self._parts[part] = Component(path, part, name, columns[part])
            self.cameras = self._read_cameras()
            self.lasers = self._read_lasers()
            self.timestamps = self._order()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SegmentReader:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self.close()

    def close(self) -> None:
        """Close the files."""
        for part in self._parts.values():
            part.close()

    def iterate(self) -> Iterator[int]:
        """Yield each timestamp; until the next is asked for, the methods below can be called with it.

        Raises:
            SegmentError: a file is damaged.
        """
        parts = [part for part in _PER_FRAME if part in self._parts]
        row_bytes = sum(self._parts[part].row_bytes * len(self._keys(part, [0])) for part in parts)
        count = max(1, LOAD_BYTES // max(row_bytes, 1))
        for first in range(0, len(self.timestamps), count):
            chunk = self.timestamps[first : first + count]
            self._loaded.clear()  # before the next are read, not after
            for part in parts:
                self._loaded[part] = self._parts[part].load(self._keys(part, chunk))
            yield from chunk

    def vehicle_pose(self, timestamp: int) -> np.ndarray:
        """(4, 4) float64 vehicle to world of a frame.

        Raises:
            FrameError: it is absent or no rigid transform.
        """
        row = self._row('vehicle_pose', (timestamp,), 'no vehicle pose')
        return _transform(row['world_from_vehicle.transform'], 'vehicle pose')

    def image(self, timestamp: int, camera: int) -> CameraImage:
        """A camera's image.

        Raises:
            FrameError: it is absent, or its pose is no rigid transform.
        """
        row = self._row('camera_image', (timestamp, camera), 'no camera image')
        if row['image'] is None:
            raise FrameError('no camera image', f'camera_image holds a null image in row {(timestamp, camera)}')
        return CameraImage(row['image'], _transform(row['pose.transform'], 'image pose'))

    def scan(self, timestamp: int, laser: int) -> LaserScan:
        """A laser's returns, projections and (TOP) pixel poses.

        Raises:
            FrameError: one of them is absent or does not have the size it claims.
        """
        key = (timestamp, laser)
        ranges = self._row('lidar', key, 'no lidar')
        where = self._row('lidar_camera_projection', key, 'no lidar')
        pose = _range_image(self._row('lidar_pose', key, 'no lidar'), 1, 6) if laser == TOP else None
        if laser == TOP and pose is None:
            raise FrameError('no lidar', f'lidar_pose is null in row {key}')
        found = {n: image for n in self.settings.returns if (image := _range_image(ranges, n, 4)) is not None}
        seen = {n: image for n in found if (image := _range_image(where, n, 6)) is not None}
        return LaserScan(found, seen, pose)

    def _keys(self, part: str, timestamps: list[int]) -> list[Key]:
        """Keys of a per-frame component at some timestamps, of the sensors asked for."""
        if part == 'vehicle_pose':
            return [(timestamp,) for timestamp in timestamps]
        sensors = {'camera_image': self.settings.cameras, 'lidar_pose': (TOP,)}.get(part, self.settings.lasers)
        return [(timestamp, sensor) for timestamp in timestamps for sensor in sensors]

    def _row(self, part: str, key: Key, reason: str) -> dict[str, Any]:
        try:
            return self._loaded[part][key]
        except KeyError:
            raise FrameError(reason, f'{part} has no row {key}') from None

    def _order(self) -> list[int]:
        """All timestamps, in the order in which the largest component can be read through."""
        rows = self._parts['lidar_camera_projection'].rows
        times = {key[0]: row for key, row in reversed(rows.items())}
        for part in ('vehicle_pose', 'camera_image', 'lidar'):
            for key in self._parts[part].rows:
                times.setdefault(key[0], len(rows))
        return sorted(times, key=lambda time: (times[time], time))

    def _read_cameras(self) -> dict[int, CameraCalibration]:
        part, found = self._parts['camera_calibration'], {}
        for (camera,), row in part.load(part.rows).items():
            intrinsic = np.array([row[f'intrinsic.{i}'] for i in INTRINSICS], np.float64)
            extrinsic = _extrinsic(row['extrinsic.transform'], part.path)
            size = row['width'], row['height']
            if not all(isinstance(side, int) and 0 < side < 1 << 16 for side in size):
                raise SegmentError(f'{part.path}: camera {camera} has an impossible size {size}')
            found[camera] = CameraCalibration(camera, intrinsic, extrinsic, *size)
        return found

    def _read_lasers(self) -> dict[int, LaserCalibration]:
        part, found = self._parts['lidar_calibration'], {}
        rows = part.load(part.rows)
        for laser in self.settings.lasers:
            if (laser,) not in rows:
                raise SegmentError(f'{part.path}: no calibration of laser {laser}; it has {sorted(part.rows)}')
            row = rows[laser,]
            low, high, values = (row[f'beam_inclination.{i}'] for i in ('min', 'max', 'values'))
            if values is None and None in (low, high):
                raise SegmentError(f'{part.path}: laser {laser} has no beam inclinations')
            extrinsic = _extrinsic(row['extrinsic.transform'], part.path)
            found[laser] = LaserCalibration(laser, extrinsic, low, high, values)
        return found


def _transform(values: np.ndarray | None, what: str) -> np.ndarray:
    """16 doubles as a rigid 4x4 transform."""
    matrix = values.astype(np.float64).reshape(4, 4) if values is not None and values.size == 16 else np.zeros((4, 4))
    rotation = matrix[:3, :3]
    if not (np.isfinite(matrix).all() and np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3)):
        raise FrameError('bad pose', f'the {what} is no rigid transform: {values}')
    return matrix


def _extrinsic(values: np.ndarray | None, path: Path) -> np.ndarray:
    try:
        return _transform(values, 'extrinsic')
    except FrameError as error:
        raise SegmentError(f'{path}: {error.detail}') from None


def _range_image(row: dict[str, Any], number: int, channels: int) -> np.ndarray | None:
    """A return's (H, W, channels) float32 image; None where it is null."""
    values, shape = (row[f'range_image_return{number}.{part}'] for part in ('values', 'shape'))
    if values is None or shape is None:
        return None
    if len(shape) != 3 or shape[2] != channels or int(np.prod(shape, dtype=np.int64)) != values.size:
        raise FrameError('bad lidar', f'return {number}: {values.size} values cannot be {list(shape)}')
    return values.astype(np.float32, copy=False).reshape(shape)
