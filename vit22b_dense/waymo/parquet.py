"""Reads the sensors of one Waymo Open Dataset v2 segment from its parquet components.

A released component holds a whole 20 s segment (about 200 frames; several GB decoded for the LiDAR ones), in
any row order and in row groups of any size, even one for the whole file. So the keys are indexed first, and
rows are then decoded one at a time, in the file's order, only those asked for being kept.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from .types import TOP, CameraCalibration, CameraImage, FrameError, LaserCalibration, LaserScan, SegmentError, Settings

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise UserError(
        "Waymo's files need pyarrow, which is not installed (the extra 'waymo'): pip install 'pyarrow>=16'"
    ) from error

FRAMES_LOADED = 12  # at a time, of one return (30 MB a full-size frame)

SEGMENT_KEY = 'key.segment_context_name'
TIME_KEY, CAMERA_KEY, LASER_KEY = 'key.frame_timestamp_micros', 'key.camera_name', 'key.laser_name'
INTRINSICS = tuple(f'intrinsic.{name}' for name in ('f_u', 'f_v', 'c_u', 'c_v', 'k1', 'k2', 'p1', 'p2', 'k3'))
INCLINATIONS = tuple(f'beam_inclination.{name}' for name in ('min', 'max', 'values'))

_DOUBLE, _TRANSFORM = pa.float64(), pa.list_(pa.float64(), 16)
_TIME, _CAMERA, _LASER = {TIME_KEY: pa.int64()}, {CAMERA_KEY: pa.int8()}, {LASER_KEY: pa.int8()}
_SIZE = {'width': pa.int32(), 'height': pa.int32()}
_RETURN1, _RETURN2 = (
    {f'range_image_return{n}.values': pa.list_(pa.float32()), f'range_image_return{n}.shape': pa.list_(pa.int32(), 3)}
    for n in (1, 2)
)
_INCLINATIONS = dict(zip(INCLINATIONS, (_DOUBLE, _DOUBLE, pa.list_(_DOUBLE)), strict=True))

Key = tuple[int, ...]


class Schema(NamedTuple):
    """A component: its columns' prefix, its keys after the segment's name, and the columns that depth needs."""

    prefix: str
    keys: dict[str, pa.DataType]
    columns: dict[str, pa.DataType]


COMPONENTS: dict[str, Schema] = {
    'vehicle_pose': Schema('[VehiclePoseComponent].', _TIME, {'world_from_vehicle.transform': _TRANSFORM}),
    'camera_calibration': Schema(
        '[CameraCalibrationComponent].',
        _CAMERA,
        dict.fromkeys(INTRINSICS, _DOUBLE) | {'extrinsic.transform': _TRANSFORM} | _SIZE,
    ),
    'camera_image': Schema(
        '[CameraImageComponent].', _TIME | _CAMERA, {'image': pa.binary(), 'pose.transform': _TRANSFORM}
    ),
    'lidar_calibration': Schema(
        '[LiDARCalibrationComponent].', _LASER, {'extrinsic.transform': _TRANSFORM} | _INCLINATIONS
    ),
    'lidar': Schema('[LiDARComponent].', _TIME | _LASER, _RETURN1 | _RETURN2),
    'lidar_camera_projection': Schema('[LiDARCameraProjectionComponent].', _TIME | _LASER, _RETURN1 | _RETURN2),
    'lidar_pose': Schema('[LiDARPoseComponent].', _TIME | _LASER, _RETURN1),
}


def needed_components(lasers: tuple[int, ...]) -> list[str]:
    """Components that depth from these lasers needs: `lidar_pose` only for TOP."""
    return [name for name in COMPONENTS if name != 'lidar_pose' or TOP in lasers]


class Component:
    """One parquet file. `rows` maps the key of each row to its number, in the file's order."""

    def __init__(self, path: Path, name: str, segment: str, columns: Iterable[str], files: ExitStack) -> None:
        """Open the file of a component until `files` closes, check its columns and index its keys.

        Raises:
            SegmentError: the file is missing, truncated, lacks columns or has some of another type, or holds
                a null key, a key twice or another segment.
        """
        self.path = path
        self._prefix, keys, kinds = COMPONENTS[name]
        self._columns = [self._prefix + column for column in columns]
        if not path.is_file():
            raise SegmentError(f'{path}: missing component {name} of segment {segment}')
        with self._reading():
            # Without pre_buffer and with a buffer, a column chunk is read in pieces instead of whole.
            self._file = files.enter_context(pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20))
        found = self._file.schema_arrow.names
        missing = [column for column in [SEGMENT_KEY, *keys, *self._columns] if column not in found]
        if missing:
            raise SegmentError(f'{path}: unknown layout of {name}: lacks columns {missing}; it has {found}')
        for column, kind in (keys | {self._prefix + column: kinds[column] for column in columns}).items():
            if _family(other := self._file.schema_arrow.field(column).type) != _family(kind):
                raise SegmentError(f'{path}: unknown layout of {name}: column {column} is {other}, not {kind}')
        with self._reading():
            table = self._file.read(columns=[SEGMENT_KEY, *keys], use_threads=False)
        others = set(table[SEGMENT_KEY].to_pylist()) - {segment}
        if others:
            raise SegmentError(f'{path}: holds rows of another segment: {sorted(map(str, others))[:3]}')
        listed = list(zip(*(table[key].to_pylist() for key in keys), strict=True))
        if any(None in key for key in listed):
            raise SegmentError(f'{path}: a row has a null key, one of {tuple(keys)}')
        self.rows: dict[Key, int] = {key: row for row, key in enumerate(listed)}
        if len(self.rows) < table.num_rows:
            raise SegmentError(f'{path}: {table.num_rows - len(self.rows)} rows repeat a key {tuple(keys)}')
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._group_starts = np.cumsum([0, *sizes])[:-1].tolist()
        # The place in the file: its row group, the next row, and the rows from there on.
        self._group, self._next, self._batches = -1, 0, iter(())

    def load(self, keys: Iterable[Key]) -> dict[Key, dict[str, Any]]:
        """Decode rows; cheapest when they lie together, and not before those loaded last.

        Returns:
            By key, the values by column without the component's prefix: lists as arrays, null as None.

        Raises:
            SegmentError: the file is damaged.
        """
        found = {}
        for row, key in sorted((self.rows[key], key) for key in keys):
            group = bisect_right(self._group_starts, row) - 1
            with self._reading():
                if group != self._group or row < self._next:
                    self._group, self._next = group, self._group_starts[group]
                    self._batches = self._file.iter_batches(
                        batch_size=1, row_groups=[group], columns=self._columns, use_threads=False
                    )
                batch = next(islice(self._batches, row - self._next, None))
                self._next = row + 1
            found[key] = {name.removeprefix(self._prefix): _value(batch[name][0]) for name in self._columns}
        return found

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Name the file in whatever pyarrow raises."""
        try:
            yield
        except (OSError, pa.ArrowException, StopIteration) as error:
            raise SegmentError(f'{self.path}: cannot be read (truncated or damaged?): {error}') from error


class SegmentReader:
    """The sensors of one segment. A context manager; closes its files on leaving.

    Attributes:
        cameras: camera number to calibration, of all cameras that have one.
        lasers: laser number to calibration, of the lasers asked for.
        timestamps: all timestamps that any sensor has, in the order in which the files are read fastest.
    """

    def __init__(self, root: Path, split: str, name: str, settings: Settings) -> None:
        """Open ROOT/SPLIT/COMPONENT/NAME.parquet, read the calibrations and index the rows.

        Raises:
            SegmentError: a component is missing, truncated or of another layout, or a laser has no
                calibration.
        """
        self.settings = settings
        self._parts: dict[str, Component] = {}
        self._loaded: dict[str, dict[Key, dict[str, Any]]] = {}
        unread = {f'range_image_return{n}' for n in {1, 2}.difference(settings.returns)}
        with ExitStack() as files:
            for part in needed_components(settings.lasers):
                columns = COMPONENTS[part].columns
                if part != 'lidar_pose':  # has but one for both returns
                    columns = [column for column in columns if column.split('.')[0] not in unread]
                path = Path(root) / split / part / f'{name}.parquet'
                self._parts[part] = Component(path, part, name, columns, files)
            try:
                self.cameras, self.lasers = self._read_cameras(), self._read_lasers()
            except FrameError as error:
                raise SegmentError(error.detail) from None
            self._files = files.pop_all()
        # The largest component's order comes first: reading it out of order would take the longest.
        by_size = ('lidar_camera_projection', 'vehicle_pose', 'camera_image', 'lidar')
        self.timestamps = list(dict.fromkeys(key[0] for part in by_size for key in self._parts[part].rows))

    def __enter__(self) -> SegmentReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def iterate(self) -> Iterator[int]:
        """Yield each timestamp; until the next is asked for, the methods below can be called with it.

        Raises `SegmentError` where a file is damaged.
        """
        count = max(1, FRAMES_LOADED // len(self.settings.returns))
        for first in range(0, len(self.timestamps), count):
            times = self.timestamps[first : first + count]
            self._loaded.clear()  # before the next are read, not after
            for name, part in self._parts.items():
                sensors = self.settings.cameras if name == 'camera_image' else self.settings.lasers
                keys = [key for key in part.rows if key[0] in times and set(key[1:]).issubset(sensors)]
                if TIME_KEY in COMPONENTS[name].keys:
                    self._loaded[name] = part.load(keys)
            yield from times

    def vehicle_pose(self, timestamp: int) -> np.ndarray:
        """(4, 4) float64 vehicle to world of a frame. Raises `FrameError` where it is absent or no rigid transform."""
        row = self._row('vehicle_pose', (timestamp,), 'no vehicle pose')
        return _transform(row, 'world_from_vehicle.transform', 'vehicle_pose')

    def image(self, timestamp: int, camera: int) -> CameraImage:
        """A camera's image. Raises `FrameError` where it is absent, or its pose is no rigid transform."""
        row = self._row('camera_image', (timestamp, camera), 'no camera image')
        if row['image'] is None:
            raise FrameError('no camera image', f'camera_image holds a null image in row {(timestamp, camera)}')
        return CameraImage(row['image'], _transform(row, 'pose.transform', 'camera_image'))

    def scan(self, timestamp: int, laser: int) -> LaserScan:
        """A laser's returns. Raises `FrameError` where a part is absent or does not have the size it claims."""
        key = (timestamp, laser)
        ranges = self._row('lidar', key, 'no lidar')
        where = self._row('lidar_camera_projection', key, 'no lidar')
        pose = _range_image(self._row('lidar_pose', key, 'no lidar'), 1, 6) if laser == TOP else None
        if laser == TOP and pose is None:
            raise FrameError('no lidar', f'lidar_pose is null in row {key}')
        if 1 in self.settings.returns and _range_image(ranges, 1, 4) is None:  # the second may be null
            raise FrameError('no lidar', f'lidar holds a null first return in row {key}')
        found = {n: image for n in self.settings.returns if (image := _range_image(ranges, n, 4)) is not None}
        seen = {n: image for n in found if (image := _range_image(where, n, 6)) is not None}
        return LaserScan(found, seen, pose)

    def _row(self, part: str, key: Key, reason: str) -> dict[str, Any]:
        try:
            return self._loaded[part][key]
        except KeyError:
            raise FrameError(reason, f'{part} has no row {key}') from None

    def _read_cameras(self) -> dict[int, CameraCalibration]:
        part, found = self._parts['camera_calibration'], {}
        for (camera,), row in part.load(part.rows).items():
            intrinsic = np.array([row[name] for name in INTRINSICS], np.float64)
            extrinsic = _transform(row, 'extrinsic.transform', f'{part.path}: camera {camera}')
            size = row['width'], row['height']
            if not all(isinstance(side, int) and 0 < side < 1 << 16 for side in size):
                raise SegmentError(f'{part.path}: camera {camera} has an impossible size {size}')
            if not np.isfinite(intrinsic).all():
                raise SegmentError(f'{part.path}: camera {camera} has impossible intrinsics {intrinsic}')
            found[camera] = CameraCalibration(camera, intrinsic, extrinsic, *size)
        return found

    def _read_lasers(self) -> dict[int, LaserCalibration]:
        part, found = self._parts['lidar_calibration'], {}
        rows = part.load(part.rows)
        for laser in self.settings.lasers:
            if (laser,) not in rows:
                raise SegmentError(f'{part.path}: no calibration of laser {laser}; it has {sorted(part.rows)}')
            row = rows[laser,]
            low, high, values = (row[name] for name in INCLINATIONS)
            beams = np.array([low, high] if values is None else values, np.float64)
            if not (np.abs(beams) <= np.pi / 2).all() or (np.diff(beams) < 0).any():
                raise SegmentError(
                    f'{part.path}: laser {laser} has no ascending beam inclinations in radians: {beams}'
                )
            extrinsic = _transform(row, 'extrinsic.transform', f'{part.path}: laser {laser}')
            found[laser] = LaserCalibration(laser, extrinsic, low, high, values)
        return found


def _family(kind: pa.DataType) -> str:
    """A type without its width, in which files may differ."""
    if isinstance(kind, pa.ListType | pa.FixedSizeListType):
        return f'list of {_family(kind.value_type)}'
    return 'float' if pa.types.is_floating(kind) else 'int' if pa.types.is_integer(kind) else str(kind)


def _value(cell: pa.Scalar) -> Any:
    if not cell.is_valid or not isinstance(cell, pa.ListScalar):
        return cell.as_py()
    return np.array(cell.values.to_numpy(zero_copy_only=False))  # a copy: Arrow's own buffers take more memory


def _transform(row: dict[str, Any], column: str, where: str) -> np.ndarray:
    """16 doubles as a rigid 4x4 transform."""
    values = row[column]
    matrix = values.astype(np.float64).reshape(4, 4) if values is not None and values.size == 16 else np.zeros((4, 4))
    rotation, close = matrix[:3, :3], partial(np.allclose, atol=1e-3)
    rigid = np.isfinite(matrix).all() and close(rotation @ rotation.T, np.eye(3)) and close(matrix[3], [0, 0, 0, 1])
    if not rigid or np.linalg.det(rotation) < 0:
        raise FrameError('bad pose', f'{where}: {column} is no rigid transform: {values}')
    return matrix


def _range_image(row: dict[str, Any], number: int, channels: int) -> np.ndarray | None:
    """A return's (H, W, channels) float32 image; None where it is null."""
    values, shape = (row[f'range_image_return{number}.{part}'] for part in ('values', 'shape'))
    if values is None or shape is None:
        return None
    sides = shape.tolist()
    if len(sides) != 3 or sides[2] != channels or min(sides) < 1 or math.prod(sides) != values.size:
        raise FrameError('bad lidar', f'return {number}: {values.size} values cannot be {sides}')
    return values.astype(np.float32, copy=False).reshape(sides)
