"""Writes segments in the Waymo Open Dataset v2 parquet schema, for made data: a synthetic street, the tests.

A LiDAR is simulated by casting `laser_rays` into a scene, filling the range images with the distances, and
giving the points they hit to `camera_projections`; `write_segment` then writes what `SegmentReader` reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .components import INTRINSICS
from .parquet import COMPONENTS, SEGMENT_KEY
from .projection import apply_pixel_pose, laser_points
from .types import CameraCalibration, Frame, LaserCalibration

_TRANSFORM = pa.list_(pa.float64(), 16)
_RETURN1 = {
    'range_image_return1.values': pa.list_(pa.float32()),
    'range_image_return1.shape': pa.list_(pa.int32(), 3),
}
_RETURNS = _RETURN1 | {column.replace('return1', 'return2'): kind for column, kind in _RETURN1.items()}
_VELOCITY = {f'velocity.linear_velocity.{axis}': pa.float32() for axis in 'xyz'}
_VELOCITY |= {f'velocity.angular_velocity.{axis}': pa.float64() for axis in 'xyz'}
_SHUTTER = ('shutter', 'camera_trigger_time', 'camera_readout_done_time')
_COLUMNS: dict[str, dict[str, pa.DataType]] = {
    'vehicle_pose': {'world_from_vehicle.transform': _TRANSFORM},
    'camera_calibration': {
        **{f'intrinsic.{name}': pa.float64() for name in INTRINSICS},
        'extrinsic.transform': _TRANSFORM,
        'width': pa.int32(),
        'height': pa.int32(),
        'rolling_shutter_direction': pa.int8(),
    },
    'camera_image': {
        'image': pa.binary(),
        'pose.transform': _TRANSFORM,
        **_VELOCITY,
        'pose_timestamp': pa.float64(),
        **{f'rolling_shutter_params.{name}': pa.float64() for name in _SHUTTER},
    },
    'lidar_calibration': {
        'extrinsic.transform': _TRANSFORM,
        'beam_inclination.min': pa.float64(),
        'beam_inclination.max': pa.float64(),
        'beam_inclination.values': pa.list_(pa.float64()),
    },
    'lidar': _RETURNS,
    'lidar_camera_projection': _RETURNS,
    'lidar_pose': _RETURN1,
}
_KEY_TYPES = {
    'key.frame_timestamp_micros': pa.int64(),
    'key.camera_name': pa.int8(),
    'key.laser_name': pa.int8(),
}
_GLOBAL_SHUTTER = 5


def laser_rays(
    calibration: LaserCalibration,
    height: int,
    width: int,
    world_from_vehicle: np.ndarray,
    pixel_pose: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The ray of each pixel of a range image, in the world.

    Args:
        calibration: the LiDAR.
        height: rows.
        width: columns.
        world_from_vehicle: (4, 4), the frame's vehicle pose.
        pixel_pose: (H, W, 6) `roll, pitch, yaw, x, y, z` of each pixel (TOP); None: the frame's pose for all.

    Returns:
        Origins and unit directions, each (H, W, 3) float64, metres: a hit at distance r belongs into the
        range image as r, and lies at origin + r * direction.
    """
    pixels = np.arange(height * width)
    ends = [laser_points(np.full((height, width), r), pixels, calibration) for r in (0.0, 1.0)]
    if pixel_pose is None:
        rotation, translation = world_from_vehicle[:3, :3], world_from_vehicle[:3, 3]
        ends = [end @ rotation.T + translation for end in ends]
    else:
        ends = [apply_pixel_pose(end, pixel_pose.reshape(-1, 6), np.eye(4)) for end in ends]
    origin, end = (end.reshape(height, width, 3) for end in ends)
    return origin, end - origin


def camera_projections(
    points: np.ndarray,
    valid: np.ndarray,
    cameras: Iterable[CameraCalibration],
    image_poses: dict[int, np.ndarray],
) -> np.ndarray:
    """Where world points fall in the cameras, as `lidar_camera_projection` holds it (without occlusion).

    Args:
        points: (H, W, 3) in the world, metres.
        valid: (H, W) bool, pixels with a return.
        cameras: calibrations; the first two by number that see a point are kept.
        image_poses: camera number to (4, 4) vehicle to world of its image.

    Returns:
        (H, W, 6) float32 `camera, x, y` twice, whole pixels; 0 where there is none.
    """
    result = np.zeros((*valid.shape, 6), np.float32)
    for camera in sorted(cameras, key=lambda calibration: calibration.camera):
        from_world = np.linalg.inv(image_poses[camera.camera] @ camera.extrinsic)
        x, y, z = np.moveaxis(points @ from_world[:3, :3].T + from_world[:3, 3], -1, 0)
        f_u, f_v, c_u, c_v, k1, k2, p1, p2, k3 = camera.intrinsic
        with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
            u, v = -y / x, -z / x
            r2 = u * u + v * v
            radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
            column = f_u * (u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u)) + c_u
            row = f_v * (v * radial + 2 * p2 * u * v + p1 * (r2 + 2 * v * v)) + c_v
            # Far outside the image the distortion polynomial turns back into it: there it no longer grows.
            growing = 1 + r2 * (3 * k1 + r2 * (5 * k2 + r2 * 7 * k3)) > 0
            inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
        seen = valid & (x > 0) & growing & inside
        for slot in (0, 3):
            free = seen & (result[..., slot] == 0)
            result[free, slot] = camera.camera
            result[free, slot + 1] = np.floor(column[free])
            result[free, slot + 2] = np.floor(row[free])
            seen &= ~free
    return result


def write_segment(
    root: Path,
    split: str,
    name: str,
    cameras: Iterable[CameraCalibration],
    lasers: Iterable[LaserCalibration],
    frames: Iterable[Frame],
    group_frames: int = 4,
    compression: str = 'brotli',
) -> None:
    """Write a segment as ROOT/SPLIT/COMPONENT/NAME.parquet, with the released columns and the extra `index`.

    Frames are taken as they come, `group_frames` in memory at a time. The cameras are global-shutter ones at
    rest in the schema's velocity and shutter columns, which depth does not need.

    Args:
        root: folder of the data set.
        split: its split.
        name: the segment.
        cameras: calibrations.
        lasers: calibrations.
        frames: in the order of their rows; absent images, scans and returns become absent rows and nulls.
        group_frames: frames per row group, at least 1.
        compression: of parquet.

    Raises:
        OSError: a file cannot be written; those under final names are whole.
    """
    paths = {part: Path(root) / split / part / f'{name}.parquet' for part in COMPONENTS}
    schemas = {part: _schema(part) for part in COMPONENTS}
    temporary = {part: path.with_name(f'.{path.name}.{os.getpid()}.part') for part, path in paths.items()}
    try:
        with ExitStack() as stack:
            writers = {}
            for part, path in temporary.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                writers[part] = stack.enter_context(pq.ParquetWriter(path, schemas[part], compression=compression))
            rows = {'camera_calibration': [_camera_row(camera) for camera in cameras]}
            rows['lidar_calibration'] = [_laser_row(laser) for laser in lasers]
            left = iter(frames)
            while rows:
                for part, found in rows.items():
                    full = [_row(part, name, row) for row in found]
                    writers[part].write_table(pa.Table.from_pylist(full, schemas[part]))
                rows = _frame_rows(list(islice(left, group_frames)))
        for part, path in temporary.items():
            path.replace(paths[part])
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def _schema(part: str) -> pa.Schema:
    prefix, keys = COMPONENTS[part]
    columns = {'index': pa.string(), SEGMENT_KEY: pa.string(), **{key: _KEY_TYPES[key] for key in keys}}
    return pa.schema(columns | {prefix + column: kind for column, kind in _COLUMNS[part].items()})


def _row(part: str, name: str, row: dict[str, object]) -> dict[str, object]:
    """A row with full column names; its keys come first."""
    prefix, keys = COMPONENTS[part]
    stamp = f';{row[keys[0]]}' if keys[0] == 'key.frame_timestamp_micros' else ''
    named = {key if key in keys else prefix + key: value for key, value in row.items()}
    return {'index': name + stamp, SEGMENT_KEY: name, **named}


def _camera_row(camera: CameraCalibration) -> dict[str, object]:
    intrinsic = {f'intrinsic.{name}': value for name, value in zip(INTRINSICS, camera.intrinsic, strict=True)}
    size = {'width': camera.width, 'height': camera.height, 'rolling_shutter_direction': _GLOBAL_SHUTTER}
    return {
        'key.camera_name': camera.camera,
        **intrinsic,
        'extrinsic.transform': camera.extrinsic.ravel(),
        **size,
    }


def _laser_row(laser: LaserCalibration) -> dict[str, object]:
    return {
        'key.laser_name': laser.laser,
        'extrinsic.transform': laser.extrinsic.ravel(),
        'beam_inclination.min': laser.inclination_min,
        'beam_inclination.max': laser.inclination_max,
        'beam_inclination.values': laser.inclination_values,
    }


def _frame_rows(frames: list[Frame]) -> dict[str, list[dict[str, object]]]:
    """Rows of some frames by component; empty where there are no frames."""
    rows: dict[str, list[dict[str, object]]] = {}
    still = dict.fromkeys([*_VELOCITY, *(f'rolling_shutter_params.{name}' for name in _SHUTTER)], 0.0)
    for frame in frames:
        time = {'key.frame_timestamp_micros': frame.timestamp}
        pose = {'world_from_vehicle.transform': frame.world_from_vehicle.ravel()}
        rows.setdefault('vehicle_pose', []).append(time | pose)
        for camera, image in frame.images.items():
            key = time | {'key.camera_name': camera, 'image': image.jpeg, **still}
            taken = {
                'pose.transform': image.world_from_vehicle.ravel(),
                'pose_timestamp': frame.timestamp / 1e6,
            }
            rows.setdefault('camera_image', []).append(key | taken)
        for laser, scan in frame.scans.items():
            key = time | {'key.laser_name': laser}
            rows.setdefault('lidar', []).append(key | _return_columns(scan.range_images))
            rows.setdefault('lidar_camera_projection', []).append(key | _return_columns(scan.projections))
            if scan.pixel_pose is not None:
                rows.setdefault('lidar_pose', []).append(key | _return_columns({1: scan.pixel_pose}))
    return rows


def _return_columns(images: dict[int, np.ndarray]) -> dict[str, object]:
    columns: dict[str, object] = {}
    for number, image in images.items():
        columns[f'range_image_return{number}.values'] = np.asarray(image, np.float32).ravel()
        columns[f'range_image_return{number}.shape'] = list(image.shape)
    return columns
