"""Writes segments in the Waymo Open Dataset v2 parquet schema, for made data: a synthetic street, the tests.

A LiDAR is simulated by casting `laser_rays` into a scene, filling the range images with the distances, and
giving the points they hit to `camera_projections`; `write_segment` then writes what `parquet.SegmentReader` reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import written_whole
from .parquet import COMPONENTS, INCLINATIONS, INTRINSICS, SEGMENT_KEY, TIME_KEY, Key
from .projection import apply_pixel_pose, laser_points
from .types import CameraCalibration, Frame, LaserCalibration

# Columns that the released files have besides those that depth needs.
_SHUTTER = ('shutter', 'camera_trigger_time', 'camera_readout_done_time')
_MORE_COLUMNS: dict[str, dict[str, pa.DataType]] = {
    'camera_calibration': {'rolling_shutter_direction': pa.int8()},
    'camera_image': {
        **{f'velocity.linear_velocity.{axis}': pa.float32() for axis in 'xyz'},
        **{f'velocity.angular_velocity.{axis}': pa.float64() for axis in 'xyz'},
        'pose_timestamp': pa.float64(),
        **{f'rolling_shutter_params.{name}': pa.float64() for name in _SHUTTER},
    },
}
_GLOBAL_SHUTTER = 5


def laser_rays(
    calibration: LaserCalibration,
    height: int,
    width: int,
    world_from_vehicle: np.ndarray,
    pixel_pose: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The ray of each pixel of a range image, in the world: origins and unit directions, (H, W, 3) float64, metres.

    A hit at distance r belongs into the range image as r, and lies at origin + r * direction. The car is at
    `pixel_pose`, (H, W, 6) `roll, pitch, yaw, x, y, z` (TOP), or without it at the (4, 4) `world_from_vehicle`.
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
    """Where points fall in the cameras, as `lidar_camera_projection` holds it: without occlusion and distortion.

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
        f_u, f_v, c_u, c_v = camera.intrinsic[:4]
        with np.errstate(divide='ignore', invalid='ignore'):
            column, row = f_u * (-y / x) + c_u, f_v * (-z / x) + c_v
        seen = valid & (x > 0) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
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
        root, split, name: folder of the data set, its split and the segment.
        cameras, lasers: calibrations.
        frames: in the order of their rows; absent images, scans and returns become absent rows and nulls.
        group_frames: frames per row group, at least 1.
        compression: of parquet.

    Raises:
        OSError: a file cannot be written; those under final names are whole.
    """
    schemas = {part: _schema(part) for part in COMPONENTS}
    pending: dict[str, list[dict[str, object]]] = defaultdict(list)
    with ExitStack() as stack:
        writers = {}
        for part, schema in schemas.items():
            beside = stack.enter_context(written_whole(root / split / part / f'{name}.parquet', overwrite=True))
            writers[part] = stack.enter_context(pq.ParquetWriter(beside, schema, compression=compression))

        def add(part: str, key: Key, columns: dict[str, object]) -> None:
            prefix, keys, _ = COMPONENTS[part]
            index = f'{name};{key[0]}' if TIME_KEY in keys else name
            named = {prefix + column: value for column, value in columns.items()}
            row = {'index': index, SEGMENT_KEY: name} | dict(zip(keys, key, strict=True)) | named
            pending[part].append(row)

        def flush() -> None:
            for part, rows in pending.items():
                writers[part].write_table(pa.Table.from_pylist(rows, schemas[part]))
            pending.clear()

        for camera in cameras:
            columns = {
                'extrinsic.transform': camera.extrinsic.ravel(),
                'width': camera.width,
                'height': camera.height,
                'rolling_shutter_direction': _GLOBAL_SHUTTER,
            }
            columns |= dict(zip(INTRINSICS, camera.intrinsic, strict=True))
            add('camera_calibration', (camera.camera,), columns)
        for laser in lasers:
            inclinations = laser.inclination_min, laser.inclination_max, laser.inclination_values
            columns = {'extrinsic.transform': laser.extrinsic.ravel()}
            columns |= dict(zip(INCLINATIONS, inclinations, strict=True))
            add('lidar_calibration', (laser.laser,), columns)
        for count, frame in enumerate(frames, 1):
            time = frame.timestamp
            add('vehicle_pose', (time,), {'world_from_vehicle.transform': frame.world_from_vehicle.ravel()})
            for number, image in frame.images.items():
                columns = {'image': image.jpeg, 'pose.transform': image.world_from_vehicle.ravel()}
                columns |= dict.fromkeys(_MORE_COLUMNS['camera_image'], 0.0) | {'pose_timestamp': time / 1e6}
                add('camera_image', (time, number), columns)
            for number, scan in frame.scans.items():
                add('lidar', (time, number), _return_columns(scan.range_images))
                add('lidar_camera_projection', (time, number), _return_columns(scan.projections))
                if scan.pixel_pose is not None:
                    add('lidar_pose', (time, number), _return_columns({1: scan.pixel_pose}))
            if count % group_frames == 0:
                flush()
        flush()


def _schema(part: str) -> pa.Schema:
    prefix, keys, columns = COMPONENTS[part]
    named = {prefix + column: kind for column, kind in (columns | _MORE_COLUMNS.get(part, {})).items()}
    return pa.schema({'index': pa.string(), SEGMENT_KEY: pa.string()} | keys | named)


def _return_columns(images: dict[int, np.ndarray]) -> dict[str, object]:
    columns: dict[str, object] = {}
    for number, image in images.items():
        columns[f'range_image_return{number}.values'] = np.asarray(image, np.float32).ravel()
        columns[f'range_image_return{number}.shape'] = list(image.shape)
    return columns
