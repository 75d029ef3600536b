"""What a Waymo Open Dataset v2 segment holds, as far as depth needs it: names, calibrations and frames.

Frames of reference (Waymo Open Dataset v2 schema): the vehicle looks along +x, y to the left, z up; a camera
likewise looks along +x, so its optical axis is +x; every transform is a 4x4 matrix applied to column vectors,
metres; angles are radians.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..errors import UserError

CAMERAS: dict[str, int] = {'FRONT': 1, 'FRONT_LEFT': 2, 'FRONT_RIGHT': 3, 'SIDE_LEFT': 4, 'SIDE_RIGHT': 5}
LASERS: dict[str, int] = {'TOP': 1, 'FRONT': 2, 'SIDE_LEFT': 3, 'SIDE_RIGHT': 4, 'REAR': 5}
SPLITS = ('training', 'validation')
CAMERA_NAMES: dict[int, str] = {number: name for name, number in CAMERAS.items()}
TOP: int = LASERS['TOP']  # the only laser whose pixels carry a pose of their own


class SegmentError(UserError):
    """A segment that cannot be read: a component missing, truncated or of unknown layout. Names the file."""


class FrameError(ValueError):
    """One frame (a timestamp and a camera) that cannot be used; the rest of its segment can.

    Attributes:
        reason: a short fixed phrase, by which skipped frames are counted.
        detail: what exactly is wrong.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason beside the full message, `reason: detail`."""
        super().__init__(f'{reason}: {detail}')
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Settings:
    """What to take from a segment: camera numbers, laser numbers, return numbers (1, 2)."""

    cameras: tuple[int, ...]
    lasers: tuple[int, ...]
    returns: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class CameraCalibration:
    """A camera of a segment.

    Attributes:
        camera: its number, 1-5 (`CAMERAS`).
        intrinsic: (9,) float64 `f_u, f_v, c_u, c_v, k1, k2, p1, p2, k3`, pixels; distortion as in OpenCV.
        extrinsic: (4, 4) float64, camera to vehicle.
        width: image width, pixels.
        height: image height, pixels.
    """

    camera: int
    intrinsic: np.ndarray
    extrinsic: np.ndarray
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class LaserCalibration:
    """A LiDAR of a segment.

    Attributes:
        laser: its number, 1-5 (`LASERS`).
        extrinsic: (4, 4) float64, LiDAR to vehicle.
        inclination_min: lowest beam inclination, radians.
        inclination_max: highest beam inclination, radians.
        inclination_values: (H,) float64 per-row inclinations in ascending order (so the last row of the range
            image first), or None where the rows are evenly spaced between the two bounds.
    """

    laser: int
    extrinsic: np.ndarray
    inclination_min: float
    inclination_max: float
    inclination_values: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class LaserScan:
    """One spin of one LiDAR.

    Attributes:
        range_images: return number (1 or 2) to (H, W, 4) float32: range in metres, intensity, elongation,
            no-label zone; a pixel is valid where its range is above 0. A return that is absent (null) has no
            entry.
        projections: return number to (H, W, 6) float32: `camera, x, y` twice; camera 0 means none.
        pixel_pose: (H, W, 6) float32 `roll, pitch, yaw, x, y, z`, vehicle to world at the time each pixel was
            fired; of the first return, which the second shares. None for every laser but TOP.
    """

    range_images: dict[int, np.ndarray]
    projections: dict[int, np.ndarray]
    pixel_pose: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class CameraImage:
    """One photograph.

    Attributes:
        jpeg: the file's own bytes.
        world_from_vehicle: (4, 4) float64, the vehicle's pose when this camera exposed.
    """

    jpeg: bytes
    world_from_vehicle: np.ndarray


@dataclass(frozen=True, eq=False)
class Frame:
    """All sensors at one timestamp.

    Attributes:
        timestamp: microseconds.
        world_from_vehicle: (4, 4) float64, the frame's vehicle pose.
        images: by camera number.
        scans: by laser number.
    """

    timestamp: int
    world_from_vehicle: np.ndarray
    images: dict[int, CameraImage] = field(default_factory=dict)
    scans: dict[int, LaserScan] = field(default_factory=dict)
