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
    frames: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    dropped = Counter(behind=0, outside=0)
    with SegmentReader(job.root, job.split, name, job.settings) as reader:
        folder = job.out / job.split / name
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        for timestamp in reader.iterate():
            for camera, outcome in _depths(reader, timestamp).items():
                key = {'timestamp': timestamp, 'camera': camera}
                if isinstance(outcome, FrameError):
                    skipped.append(key | {'reason': outcome.reason, 'detail': outcome.detail})
                    continue
                image, depth = outcome
                dropped.update(behind=depth.behind, outside=depth.outside)
                stem, calibration = f'{timestamp}_{camera}', reader.cameras[camera]
                _write(folder / stem, image, depth)
                frames.append(
                    key
                    | {
                        'camera_name': CAMERA_NAMES[camera],
                        'width': calibration.width,
                        'height': calibration.height,
                        'points': len(depth.depth),
                        'image': f'{name}/{stem}.jpg',
                        'depth': f'{name}/{stem}.npz',
                    }
                )
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


def _depths(reader: SegmentReader, timestamp: int) -> dict[int, tuple[CameraImage, SparseDepth] | FrameError]:
    """Per camera, its image and depth, or why there is none."""
    outcomes: dict[int, tuple[CameraImage, SparseDepth] | FrameError] = {}
    images: dict[int, CameraImage] = {}
    for camera in reader.settings.cameras:
        try:
            image = reader.image(timestamp, camera)
            if camera not in reader.cameras:
                raise FrameError('no camera calibration', f'camera_calibration has no row {camera}')
            check_jpeg(image.jpeg, reader.cameras[camera])
            images[camera] = image
        except FrameError as error:
            outcomes[camera] = error
    if not images:
        return outcomes
    try:
        pose = reader.vehicle_pose(timestamp)
        lasers = reader.lasers.items()
        parts = [
            scan_points(reader.scan(timestamp, laser), calibration, pose, images) for laser, calibration in lasers
        ]
    except FrameError as error:
        return outcomes | dict.fromkeys(images, error)
    points, projections = (np.concatenate(column) for column in zip(*parts, strict=True))
    for camera, image in images.items():
        depth = camera_depth(points, projections, reader.cameras[camera], pose, image.world_from_vehicle)
        outcomes[camera] = image, depth
    return outcomes


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
