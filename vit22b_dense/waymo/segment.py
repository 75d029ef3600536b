"""Prepares one segment: its images with their sparse z-depth, and the index that says it is complete.

`index` tells the layout.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..datasets.waymo_index import INDEX, VERSION
from ..files import write_atomically
from .components import SegmentReader
from .projection import SparseDepth, camera_depth, scan_points
from .types import CAMERA_NAMES, CameraCalibration, CameraImage, FrameError, Settings

_OURS = re.compile(r'\d+_\d\.(jpg|npz)|\..*\.part|index\.json')


@dataclass
class SegmentReport:
    """What became of one segment.

    Attributes:
        name: the segment.
        status: `done`, `complete` (an earlier run's, left alone) or `failed`.
        frames: frames (a timestamp of one camera) in its index.
        empty: those of them without a LiDAR point.
        skipped: frames left out, by reason.
        behind: returns dropped for want of a positive z-depth.
        outside: returns dropped because their projection lies outside the image.
        messages: what was skipped or failed, for the user.
    """

    name: str
    status: str = 'done'
    frames: int = 0
    empty: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    behind: int = 0
    outside: int = 0
    messages: list[str] = field(default_factory=list)


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


def prepare_segment(
    root: Path,
    split: str,
    name: str,
    out: Path,
    settings: Settings,
    on_frame: Callable[[float], None] = lambda fraction: None,
) -> SegmentReport:
    """Prepare a segment from its beginning, replacing whatever an earlier run left of it.

    Args:
        root: folder of the released data.
        split: its split.
        name: the segment.
        out: folder to write `SPLIT/SEGMENT` under.
        settings: cameras, lasers and returns.
        on_frame: called with the fraction done after each timestamp; what it raises ends the job.

    Returns:
        The counts.

    Raises:
        SegmentError: the segment cannot be read; no index is written.
        OSError: the output cannot be written; no index is written.
    """
    with SegmentReader(root, split, name, settings) as reader:
        folder = out / split / name
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        report = SegmentReport(name)
        frames: list[dict[str, Any]] = []
        skipped: list[dict[str, Any]] = []
        for done, timestamp in enumerate(reader.iterate(), 1):
            for camera, outcome in _depths(reader, timestamp).items():
                entry = {'timestamp': timestamp, 'camera': camera}
                if isinstance(outcome, FrameError):
                    skipped.append({**entry, 'reason': outcome.reason, 'detail': outcome.detail})
                    report.skipped[outcome.reason] += 1
                    report.messages.append(f'{name} {timestamp} {CAMERA_NAMES[camera]}: skipped, {outcome}')
                    continue
                image, depth = outcome
                report.behind += depth.behind
                report.outside += depth.outside
                frames.append(
                    {**entry, **_write(folder, f'{timestamp}_{camera}', reader.cameras[camera], image, depth)}
                )
            on_frame(done / len(reader.timestamps))
        for rows in (frames, skipped):
            rows.sort(key=lambda row: (row['timestamp'], row['camera']))
        index = {'version': VERSION, 'segment': name, 'settings': asdict(settings)}
        index |= {'dropped_returns': {'behind': report.behind, 'outside': report.outside}}
        index |= {'frames': frames, 'skipped': skipped}
        write_atomically(folder / INDEX, json.dumps(index, indent=1) + '\n')
    report.frames, report.empty = len(frames), sum(frame['points'] == 0 for frame in frames)
    return report


def report_complete(name: str, index: dict[str, Any]) -> SegmentReport:
    """The report of a segment that an earlier run completed, from its index."""
    empty = sum(frame['points'] == 0 for frame in index['frames'])
    skipped = Counter(row['reason'] for row in index['skipped'])
    dropped = index['dropped_returns']
    counts = len(index['frames']), empty, skipped, dropped['behind'], dropped['outside']
    return SegmentReport(name, 'complete', *counts)


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
        parts = []
        for laser, calibration in reader.lasers.items():
            parts.append(scan_points(reader.scan(timestamp, laser), calibration, pose, images))
    except FrameError as error:
        return outcomes | dict.fromkeys(images, error)
    points, projections = (np.concatenate(column) for column in zip(*parts, strict=True))
    for camera, image in images.items():
        depth = camera_depth(points, projections, reader.cameras[camera], pose, image.world_from_vehicle)
        outcomes[camera] = image, depth
    return outcomes


def _write(
    folder: Path, stem: str, calibration: CameraCalibration, image: CameraImage, depth: SparseDepth
) -> dict[str, Any]:
    """Write one frame's files and return the rest of its index entry."""
    write_atomically(folder / f'{stem}.jpg', image.jpeg)
    arrays = io.BytesIO()
    np.savez(arrays, x=depth.x, y=depth.y, depth=depth.depth)
    write_atomically(folder / f'{stem}.npz', arrays.getvalue())
    return {
        'camera_name': CAMERA_NAMES[calibration.camera],
        'width': calibration.width,
        'height': calibration.height,
        'points': len(depth.depth),
        'image': f'{folder.name}/{stem}.jpg',
        'depth': f'{folder.name}/{stem}.npz',
    }


def _clear(folder: Path) -> None:
    """Remove what an earlier run wrote, its index first, and nothing else."""
    (folder / INDEX).unlink(missing_ok=True)
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()
