"""Prepares one segment: its images with their sparse z-depth, and the index that says it is complete.

`datasets.waymo_index` describes the layout.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..datasets.waymo_index import INDEX, VERSION
from ..files import write_atomically
from .parquet import SegmentReader
from .projection import SparseDepth, camera_depth, scan_points
from .types import CAMERA_NAMES, CameraCalibration, CameraImage, FrameError, Job

_OURS = re.compile(r'\d+_\d\.(jpg|npz)|\..*\.part|index\.json')


def check_jpeg(jpeg: bytes, calibration: CameraCalibration) -> None:
    """Make sure that a JPEG decodes and has its camera's size.

    Raises:
        FrameError: it does not.
    """
    # Some decoders fill a truncated file up with grey, hence the end marker.
    whole = jpeg[:2] == b'\xff\xd8' and jpeg.rstrip(b'\0').endswith(b'\xff\xd9')
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if whole else None
    if image is None:
        raise FrameError('bad image', f'{len(jpeg)} bytes that do not decode as a JPEG')
    if image.shape[:2] != (calibration.height, calibration.width):
        size, wanted = image.shape[1::-1], (calibration.width, calibration.height)
        raise FrameError('bad image', f'it is {size}, its calibration says {wanted} (width, height)')


def prepare_segment(job: Job, name: str) -> dict[str, Any]:
    """Prepare a segment from its beginning, replacing whatever an earlier run left of it; returns its index.

    Raises:
        SegmentError: the segment cannot be read; no index is written.
        OSError: the output cannot be written; no index is written.
    """
    frames, skipped, dropped = [], [], Counter(behind=0, outside=0)
    with SegmentReader(job.root, job.split, name, job.settings) as reader:
        folder = job.out / job.split / name
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        for timestamp in reader.iterate():
            seen = None
            for camera in job.settings.cameras:
                key, stem = {'timestamp': timestamp, 'camera': camera}, f'{timestamp}_{camera}'
                try:
                    image = reader.image(timestamp, camera)
                    calibration = reader.cameras.get(camera)
                    if calibration is None:
                        raise FrameError('no camera calibration', f'camera_calibration has no row {camera}')
                    check_jpeg(image.jpeg, calibration)
                    seen = seen or _points(reader, timestamp)
                except FrameError as error:
                    skipped.append(key | {'reason': error.reason, 'detail': error.detail})
                    continue
                points, projections, pose = seen
                depth = camera_depth(points, projections, calibration, pose, image.world_from_vehicle)
                dropped.update(behind=depth.behind, outside=depth.outside)
                _write(folder / stem, image, depth)
                key |= {'camera_name': CAMERA_NAMES[camera], 'width': calibration.width, 'height': calibration.height}
                paths = {'image': f'{name}/{stem}.jpg', 'depth': f'{name}/{stem}.npz'}
                frames.append(key | {'points': len(depth.depth)} | paths)
    for rows in (frames, skipped):
        rows.sort(key=lambda row: (row['timestamp'], row['camera']))
    index = {
        'version': VERSION,
        'segment': name,
        'settings': asdict(job.settings),
        'dropped_returns': dict(dropped),
        'frames': frames,
        'skipped': skipped,
    }
    write_atomically(folder / INDEX, json.dumps(index, indent=1) + '\n')
    return index


def _points(reader: SegmentReader, timestamp: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of all LiDARs, their projections and the pose of the vehicle in whose frame they are."""
    pose, cameras = reader.vehicle_pose(timestamp), reader.settings.cameras
    parts = [scan_points(reader.scan(timestamp, n), laser, pose, cameras) for n, laser in reader.lasers.items()]
    points, projections = (np.concatenate(column) for column in zip(*parts, strict=True))
    return points, projections, pose


def _write(stem: Path, image: CameraImage, depth: SparseDepth) -> None:
    write_atomically(stem.with_suffix('.jpg'), image.jpeg)
    arrays = io.BytesIO()
    np.savez(arrays, x=depth.x, y=depth.y, depth=depth.depth)
    write_atomically(stem.with_suffix('.npz'), arrays.getvalue())


def _clear(folder: Path) -> None:
    """Remove what an earlier run wrote, its index first, and nothing else."""
    (folder / INDEX).unlink(missing_ok=True)
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()
