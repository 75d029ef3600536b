"""What a Waymo Open Dataset v2 segment holds, as far as depth needs it, and what is to be prepared of it.

Frames of reference (Waymo Open Dataset v2 schema): the vehicle looks along +x, y to the left, z up; a camera
likewise looks along +x, so its optical axis is +x; every transform is a (4, 4) float64 matrix applied to
column vectors, metres; angles are radians.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..datasets.waymo_index import CAMERAS
from ..errors import UserError

LASERS: dict[str, int] = {'TOP': 1, 'FRONT': 2, 'SIDE_LEFT': 3, 'SIDE_RIGHT': 4, 'REAR': 5}
SPLITS = ('training', 'validation')
CAMERA_NAMES: dict[int, str] = {number: name for name, number in CAMERAS.items()}
TOP: int = LASERS['TOP']  # the only laser whose pixels carry a pose of their own


class SegmentError(UserError):
    """A segment that cannot be read: a component missing, truncated or of unknown layout. Names the file."""


class FrameError(ValueError):
    """One frame (a timestamp and a camera) that cannot be used; the rest of its segment can.

    Skipped frames are counted by `reason`, a short fixed phrase; `detail` says what exactly is wrong.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f'{reason}: {detail}')
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Settings:
    """What to take from a segment: camera numbers, laser numbers, return numbers (1, 2)."""

    cameras: tuple[int, ...]
    lasers: tuple[int, ...]
    returns: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """What to prepare."""

    root: Path  # the released data, ROOT/SPLIT/COMPONENT/SEGMENT.parquet
    out: Path  # to write to, OUT/SPLIT/SEGMENT/
    split: str
    settings: Settings
    workers: int = 1  # processes; 1 works in this one
    shard: tuple[int, int] = (0, 1)  # (i, n): take the segments i, i + n, i + 2 n, ... of the sorted list
    overwrite: bool = False  # prepare complete segments again


@dataclass(frozen=True, eq=False)
class CameraCalibration:
    """A camera of a segment."""

    camera: int  # 1-5 (`CAMERAS`)
    intrinsic: np.ndarray  # (9,) float64 f_u, f_v, c_u, c_v, k1, k2, p1, p2, k3, pixels; distortion as in OpenCV
    extrinsic: np.ndarray  # camera to vehicle
    width: int  # of its images, pixels
    height: int


@dataclass(frozen=True, eq=False)
class LaserCalibration:
    """A LiDAR of a segment."""

    laser: int  # 1-5 (`LASERS`)
    extrinsic: np.ndarray  # LiDAR to vehicle
    inclination_min: float  # of the lowest beam, radians
    inclination_max: float
    # (H,) float64 of each row, ascending (so the last row of the range image first); None: evenly spaced
    inclination_values: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class LaserScan:
    """One spin of one LiDAR: images by return number (1 or 2), without an entry for a return that is null."""

    # (H, W, 4) float32: range in metres (a pixel is valid where it is above 0), intensity, elongation, no-label zone
    range_images: dict[int, np.ndarray]
    projections: dict[int, np.ndarray]  # (H, W, 6) float32: `camera, x, y` twice; camera 0 means none
    # TOP alone, for both returns: (H, W, 6) float32 `roll, pitch, yaw, x, y, z`, vehicle to world when each pixel was
    # fired
    pixel_pose: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class CameraImage:
    """One photograph: the JPEG file's own bytes, and the vehicle's pose when this camera exposed."""

    jpeg: bytes
    world_from_vehicle: np.ndarray


@dataclass(frozen=True, eq=False)
class Frame:
    """All sensors at one timestamp (microseconds): the vehicle's pose, images by camera and scans by laser number."""

    timestamp: int
    world_from_vehicle: np.ndarray
    images: dict[int, CameraImage]
    scans: dict[int, LaserScan]
