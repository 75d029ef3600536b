"""Prepares one segment: its images with their sparse z-depth, and the index that says it is complete.

`datasets.waymo_index` describes the layout.
"""

from __future__ import annotations

import io
import json
import re
import zlib
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..datasets.waymo_index import INDEX, VERSION
from ..files import written_whole
from .parquet import SegmentReader
from .projection import camera_depth, scan_points
from .types import CAMERA_NAMES, CameraCalibration, FrameError, Job, SegmentError

_OURS = re.compile(r'\d+_\d\.(jpg|npz)|\..*\.part|index\.json')


def check_jpeg(jpeg: bytes, calibration: CameraCalibration) -> None:
    """Make sure that a JPEG decodes and has its camera's size.

    Raises:
        FrameError: it does not.
    """
    # Some decoders fill a truncated file up with grey, hence the end marker.
    whole = jpeg[:2] == b'\xff\xd8' and jpeg.rstrip(b'\0').endswith(b'\xff\xd9')
    # An eighth of the size is decoded from all of the data, in half the time.
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8) if whole else None
    if image is None:
        raise FrameError('bad image', f'{len(jpeg)} bytes that do not decode as a JPEG')
    size, wanted = Image.open(io.BytesIO(jpeg)).size, (calibration.width, calibration.height)
    if size != wanted:
        raise FrameError('bad image', f'it is {size}, its calibration says {wanted} (width, height)')


def intact(base: Path, index: dict[str, Any]) -> bool:
    """Whether the files of a segment's index are all in the folder `base`, undamaged."""
    for frame in index['frames']:
        for part in ('image', 'depth'):
            path = base / frame.get(part, '')
            if not path.is_file() or zlib.crc32(path.read_bytes()) != frame.get(f'{part}_crc32'):
                return False
    return True


def prepare_segment(job: Job, name: str) -> dict[str, Any]:
    """Prepare a segment from its beginning and, when all of it is there, put it in the place of an earlier one.

    Returns:
        Its index.

    Raises:
        SegmentError: the segment cannot be read, or the folder to replace holds files of someone else's.
        OSError: the output cannot be written.
    """
    folder = job.out / job.split / name
    others = [path for path in folder.glob('*') if not (_OURS.fullmatch(path.name) and path.is_file())]
    if others:
        raise SegmentError(f'{others[0]}: not of this tool, whose folder is to be replaced; move it elsewhere')
    frames, skipped, dropped = [], [], Counter(behind=0, outside=0, invalid=0)
    with (
        SegmentReader(job.root, job.split, name, job.settings) as reader,
        written_whole(folder, overwrite=True) as beside,
    ):
        beside.mkdir()
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
                dropped.update(behind=depth.behind, outside=depth.outside, invalid=depth.invalid)
                arrays = io.BytesIO()
                np.savez(arrays, x=depth.x, y=depth.y, depth=depth.depth)
                key |= {'camera_name': CAMERA_NAMES[camera], 'width': calibration.width, 'height': calibration.height}
                key |= {'points': len(depth.depth)}
                for part, end, content in (('image', 'jpg', image.jpeg), ('depth', 'npz', arrays.getvalue())):
                    (beside / f'{stem}.{end}').write_bytes(content)
                    key |= {part: f'{name}/{stem}.{end}', f'{part}_crc32': zlib.crc32(content)}
                frames.append(key)
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
        (beside / INDEX).write_text(json.dumps(index, indent=1) + '\n')
    return index


def _points(reader: SegmentReader, timestamp: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of all LiDARs, their projections and the pose of the vehicle in whose frame they are."""
    pose, cameras = reader.vehicle_pose(timestamp), reader.settings.cameras
    parts = [scan_points(reader.scan(timestamp, n), laser, pose, cameras) for n, laser in reader.lasers.items()]
    points, projections = (np.concatenate(column) for column in zip(*parts, strict=True))
    return points, projections, pose
