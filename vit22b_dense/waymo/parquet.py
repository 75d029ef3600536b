"""One parquet component of the Waymo Open Dataset v2: checked, indexed by key, read in bounded memory.

A released component holds a whole 20 s segment (about 200 frames; several GB decoded for the LiDAR ones), in
any row order and in row groups of any size, even one for the whole file. So the keys are indexed first, and
rows are then decoded in small batches, in the file's order, only those asked for being kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .types import SegmentError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise UserError(
        "Waymo's files need pyarrow, which is not installed (the extra 'waymo'): pip install 'pyarrow>=16'"
    ) from error

SEGMENT_KEY, TIME_KEY = 'key.segment_context_name', 'key.frame_timestamp_micros'
CAMERA_KEY, LASER_KEY = 'key.camera_name', 'key.laser_name'

# component: (column prefix, keys after the segment's name)
COMPONENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    'vehicle_pose': ('[VehiclePoseComponent].', (TIME_KEY,)),
    'camera_calibration': ('[CameraCalibrationComponent].', (CAMERA_KEY,)),
    'camera_image': ('[CameraImageComponent].', (TIME_KEY, CAMERA_KEY)),
    'lidar_calibration': ('[LiDARCalibrationComponent].', (LASER_KEY,)),
    'lidar': ('[LiDARComponent].', (TIME_KEY, LASER_KEY)),
    'lidar_camera_projection': ('[LiDARCameraProjectionComponent].', (TIME_KEY, LASER_KEY)),
    'lidar_pose': ('[LiDARPoseComponent].', (TIME_KEY, LASER_KEY)),
}

BATCH_BYTES, BATCH_ROWS = 8 << 20, 16  # decoded at a time, at most; one row of a range image is up to 4 MB

Key = tuple[int, ...]


class Component:
    """One parquet file: its rows by key.

    Attributes:
        path: the file.
        rows: key to number of the row in the file; a key is the values of the component's keys
            (`COMPONENTS`).
        row_bytes: about what a row takes, decoded.
    """

    def __init__(self, path: Path, name: str, segment: str, columns: list[str]) -> None:
        """Open the file, check its columns and index its keys.

        Args:
            path: the file.
            name: the component, a key of `COMPONENTS`.
            segment: the segment's name, which every row must carry.
            columns: columns to read, without the component's prefix.

        Raises:
            SegmentError: the file is missing, truncated, lacks columns, or holds a key twice or another
                segment.
        """
        self.path = path
        self._prefix, keys = COMPONENTS[name]
        self._columns = [self._prefix + column for column in columns]
        if not path.is_file():
            raise SegmentError(f'{path}: missing component {name} of segment {segment}')
        with self._reading():
            # Without pre_buffer and with a buffer, a column chunk is read in pieces instead of whole.
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        found = self._file.schema_arrow.names
        missing = [column for column in [SEGMENT_KEY, *keys, *self._columns] if column not in found]
        if missing:
            raise SegmentError(f'{path}: unknown layout of {name}: lacks columns {missing}; it has {found}')
        with self._reading():
            table = self._file.read(columns=[SEGMENT_KEY, *keys], use_threads=False)
        others = set(table[SEGMENT_KEY].to_pylist()) - {segment}
        if others:
            raise SegmentError(f'{path}: holds rows of another segment: {sorted(map(str, others))[:3]}')
        listed = list(zip(*(table[key].to_pylist() for key in keys), strict=True))
        self.rows: dict[Key, int] = {key: row for row, key in enumerate(listed)}
        if len(self.rows) < len(listed):
            raise SegmentError(f'{path}: {len(listed) - len(self.rows)} rows repeat a key {keys}')
        groups = [self._file.metadata.row_group(i) for i in range(self._file.metadata.num_row_groups)]
        self._group_starts = np.cumsum([0, *(group.num_rows for group in groups)])[:-1].tolist()
        self.row_bytes = sum(_decoded_bytes(group, self._columns) for group in groups) // max(len(listed), 1)
        self._batches: Iterator[pa.RecordBatch] | None = None  # the place in the file that is being read, ...
        self._group = -1  # ... its row group, ...
        self._batch: pa.RecordBatch | None = None  # ... the batch just decoded ...
        self._start = self._end = 0  # ... and that one's rows in the file

    def close(self) -> None:
        """Close the file."""
        self._batches = self._batch = None
        self._file.close()

    def load(self, keys: Iterable[Key]) -> dict[Key, dict[str, Any]]:
        """Decode rows; cheapest when they lie together, and not before those loaded last.

        Args:
            keys: which; those that do not exist are left out.

        Returns:
            By key, the values by column (without the component's prefix): lists as arrays of their own, null
            as None.

        Raises:
            SegmentError: the file is damaged.
        """
        found = {}
        for row, key in sorted((self.rows[key], key) for key in keys if key in self.rows):
            with self._reading():
                self._seek(row)
                cells = [self._batch.column(column)[row - self._start] for column in self._columns]
                found[key] = {
                    c.removeprefix(self._prefix): _value(cell) for c, cell in zip(self._columns, cells, strict=True)
                }
        return found

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Name the file in whatever pyarrow raises."""
        try:
            yield
        except (OSError, pa.ArrowException, StopIteration) as error:
            raise SegmentError(f'{self.path}: cannot be read (truncated or damaged?): {error}') from error

    def _seek(self, row: int) -> None:
        """Decode up to the batch that holds a row of the file."""
        group = bisect_right(self._group_starts, row) - 1
        if group != self._group or row < self._start:
            size = max(1, min(BATCH_ROWS, BATCH_BYTES // max(self.row_bytes, 1)))
            self._batches = self._file.iter_batches(size, row_groups=[group], columns=self._columns, use_threads=False)
            self._group, self._start, self._end = group, self._group_starts[group], self._group_starts[group]
        while row >= self._end:
            self._batch = next(self._batches)
            self._start, self._end = self._end, self._end + self._batch.num_rows


def _decoded_bytes(group: pq.RowGroupMetaData, columns: list[str]) -> int:
    """About what the columns of a row group take in memory.

    Numbers are counted, not their stored bytes: dictionary encoding stores the many zeros of a projection in
    a small fraction of what they decode to.
    """
    size = 0
    for i in range(group.num_columns):
        chunk = group.column(i)
        if any(chunk.path_in_schema == c or chunk.path_in_schema.startswith(c + '.') for c in columns):
            size += max(
                chunk.total_uncompressed_size,
                chunk.num_values * (8 if chunk.physical_type == 'DOUBLE' else 4),
            )
    return size


def _value(cell: pa.Scalar) -> Any:
    """A cell as an array of its own (a view would keep the whole batch in memory) or as a Python value."""
    if not cell.is_valid or not isinstance(cell, pa.ListScalar):
        return cell.as_py()
    return np.array(cell.values.to_numpy(zero_copy_only=False))
