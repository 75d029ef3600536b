"""From range images to z-depth per camera pixel, in numpy (no TensorFlow).

Follows the geometry of the Waymo Open Dataset v2 schema: range image -> points in the frame's vehicle frame
-> distance along a camera's optical axis. Everything is computed in float64: world coordinates reach tens of
kilometres, where float32 resolves only millimetres. Used for the paper's monocular depth (section 'Monocular
depth': sparse LiDAR on driving images).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from .types import CameraCalibration, FrameError, LaserCalibration, LaserScan

MAX_RANGE = 500.0  # metres; several times as far as any LiDAR sees


@dataclass(frozen=True, eq=False)
class SparseDepth:
    """Depth at the pixels of one image that a LiDAR reached, each pixel once, sorted by row, then column."""

    x: np.ndarray  # (N,) uint16 pixel columns
    y: np.ndarray  # (N,) uint16 pixel rows
    depth: np.ndarray  # (N,) float32 z-depth, metres, all above 0
    behind: int  # returns dropped because their z-depth is not positive
    outside: int  # returns dropped because their projection lies outside the image
    invalid: int  # returns dropped because their range, pose or z-depth is not a number or above `MAX_RANGE`


def row_inclinations(calibration: LaserCalibration, height: int) -> np.ndarray:
    """(height,) float64 beam inclination of each row of a range image, radians, highest beam (row 0) first.

    Raises:
        FrameError: the calibration lists another number of beams than the image has rows.
    """
    low, high, values = calibration.inclination_min, calibration.inclination_max, calibration.inclination_values
    if values is None:
        values = low + (np.arange(height) + 0.5) / height * (high - low)
    elif len(values) != height:
        raise FrameError(
            'bad lidar', f'laser {calibration.laser} has {len(values)} beams, its range image {height} rows'
        )
    return np.asarray(values, np.float64)[::-1]


def laser_points(ranges: np.ndarray, pixels: np.ndarray, calibration: LaserCalibration) -> np.ndarray:
    """(N, 3) float64 points, metres, in the vehicle frame of the moment each was fired.

    `ranges` are (H, W) metres, `pixels` (N,) flat indices into them, row-major.

    Raises:
        FrameError: see `row_inclinations`.
    """
    height, width = ranges.shape
    rows, columns = np.divmod(pixels, width)
    inclination = row_inclinations(calibration, height)
    # The columns run clockwise from the rear of the vehicle, not of the LiDAR: take off the extrinsic's yaw.
    yaw = np.arctan2(calibration.extrinsic[1, 0], calibration.extrinsic[0, 0])
    azimuth = ((np.arange(width, 0, -1) - 0.5) / width * 2.0 - 1.0) * np.pi - yaw
    flat = np.cos(inclination)[rows]
    beams = np.stack([np.cos(azimuth)[columns] * flat, np.sin(azimuth)[columns] * flat, np.sin(inclination)[rows]], 1)
    beams *= ranges.reshape(-1)[pixels].astype(np.float64)[:, None]
    return beams @ calibration.extrinsic[:3, :3].T + calibration.extrinsic[:3, 3]


def apply_pixel_pose(points: np.ndarray, poses: np.ndarray, world_from_vehicle: np.ndarray) -> np.ndarray:
    """Bring (N, 3) points, metres, from the vehicle frame of their own moment to that of the frame, float64.

    `poses` are (N, 6) `roll, pitch, yaw, x, y, z`, vehicle to world, rotation Rz(yaw) Ry(pitch) Rx(roll);
    `world_from_vehicle` is the (4, 4) vehicle pose of the frame.
    """
    poses = poses.astype(np.float64)
    (cr, cp, cy), (sr, sp, sy) = np.cos(poses[:, :3]).T, np.sin(poses[:, :3]).T
    px, py, pz = points.T
    across, up = cr * py - sr * pz, sr * py + cr * pz  # after the roll
    along = cp * px + sp * up  # after the pitch
    world = np.stack([cy * along - sy * across, sy * along + cy * across, cp * up - sp * px], axis=1)
    # Subtracting the two translations first keeps the large world coordinates out of the products.
    world += poses[:, 3:] - world_from_vehicle[:3, 3]
    return world @ np.linalg.inv(world_from_vehicle[:3, :3]).T


def nearest_per_pixel(x: np.ndarray, y: np.ndarray, depth: np.ndarray, width: int, height: int) -> SparseDepth:
    """Keep the nearest return of each pixel of a width x height image, and count those of no use.

    `x` and `y` are (N,) float columns and rows, rounded down as pixel 0 spans [0, 1); `depth` is (N,) float64
    z-depth, metres.
    """
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    keep = inside & (depth > 0) & (depth <= MAX_RANGE)
    keys = y[keep].astype(np.int64) * width + x[keep].astype(np.int64)
    kept = depth[keep]
    order = np.lexsort((kept, keys))
    keys, first = np.unique(keys[order], return_index=True)
    rows, columns = np.divmod(keys, width)
    return SparseDepth(
        x=columns.astype(np.uint16),
        y=rows.astype(np.uint16),
        depth=kept[order][first].astype(np.float32),
        behind=int((inside & (depth <= 0)).sum()),
        outside=int((~inside).sum()),
        invalid=int((inside & ~(depth <= MAX_RANGE)).sum()),
    )


def scan_points(
    scan: LaserScan, calibration: LaserCalibration, world_from_vehicle: np.ndarray, cameras: Collection[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Points of one LiDAR that some of the cameras (numbers) see, of all returns in the scan.

    Returns:
        (N, 3) float64 points, metres, in the vehicle frame whose pose is `world_from_vehicle` (4, 4), and (N, 6)
        float32 `camera, x, y` twice.

    Raises:
        FrameError: range image, projection, poses and calibration do not fit each other.
    """
    points, projections = [np.empty((0, 3))], [np.empty((0, 6), np.float32)]
    for number, image in scan.range_images.items():
        # What cannot be goes on as NaN, to be counted where it is dropped.
        ranges = np.where(image[..., 0] <= MAX_RANGE, image[..., 0], np.nan)
        projection = scan.projections.get(number)
        sizes = [None if part is None else part.shape[:2] for part in (projection, scan.pixel_pose)]
        if sizes[0] != ranges.shape or sizes[1] not in (None, ranges.shape):
            which = f'laser {calibration.laser} return {number}'
            found = f'range image {ranges.shape}, projection {sizes[0]}, pixel poses {sizes[1]}'
            raise FrameError('bad lidar', f'{which}: {found} do not fit')
        # Most pixels reach no camera that is asked for: drop them before the trigonometry.
        seen = np.any([projection[..., slot] == camera for slot in (0, 3) for camera in cameras], axis=0)
        pixels = np.flatnonzero(seen & ~(ranges <= 0))
        found = laser_points(ranges, pixels, calibration)
        if scan.pixel_pose is not None:
            poses = scan.pixel_pose.reshape(-1, 6)[pixels]
            found = apply_pixel_pose(found, np.where(np.isfinite(poses), poses, np.nan), world_from_vehicle)
        points.append(found)
        projections.append(projection.reshape(-1, 6)[pixels])
    return np.concatenate(points), np.concatenate(projections)


def camera_depth(
    points: np.ndarray,
    projections: np.ndarray,
    calibration: CameraCalibration,
    world_from_vehicle: np.ndarray,
    image_world_from_vehicle: np.ndarray,
) -> SparseDepth:
    """z-depth per pixel of one camera: of (N, 3) points with (N, 6) projections, as `scan_points` gives them.

    Each camera exposes at its own time, tens of milliseconds from that of the frame's pose (which is the
    FRONT camera's): at 15 m/s a side camera has moved by decimetres. The released projections allow for
    that, so the depth has to as well: points go from the frame's vehicle frame to the world, and from there
    to the vehicle at the image's own pose, both (4, 4). Where the two poses agree, as for FRONT, this changes
    nothing. The movement during one readout (rolling shutter) is not corrected.
    """
    camera_from_world = np.linalg.inv(image_world_from_vehicle @ calibration.extrinsic)
    to_depth = (camera_from_world @ world_from_vehicle)[0]  # the camera looks along its own +x
    picks = []
    for slot in (0, 3):  # a point may be seen by two cameras
        here = projections[:, slot] == calibration.camera
        depth = points[here] @ to_depth[:3] + to_depth[3]
        picks.append((projections[here, slot + 1], projections[here, slot + 2], depth))
    x, y, depth = (np.concatenate(column) for column in zip(*picks, strict=True))
    return nearest_per_pixel(x, y, depth, calibration.width, calibration.height)
