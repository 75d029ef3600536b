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


@dataclass(frozen=True, eq=False)
class SparseDepth:
    """Depth at the pixels of one image that a LiDAR reached, each pixel once, sorted by row, then column.

    Attributes:
        x: (N,) uint16 pixel columns.
        y: (N,) uint16 pixel rows.
        depth: (N,) float32 z-depth, metres, all above 0.
        behind: returns dropped because their z-depth is not positive (or not finite).
        outside: returns dropped because their projection lies outside the image.
    """

    x: np.ndarray
    y: np.ndarray
    depth: np.ndarray
    behind: int = 0
    outside: int = 0


def row_inclinations(calibration: LaserCalibration, height: int) -> np.ndarray:
    """Beam inclination of each row of a range image.

    Args:
        calibration: the LiDAR.
        height: rows of the range image.

    Returns:
        (height,) float64, radians, highest beam (row 0) first.

    Raises:
        FrameError: the calibration lists another number of beams than the image has rows.
    """
    if calibration.inclination_values is None:
        steps = (np.arange(height) + 0.5) / height
        spread = calibration.inclination_max - calibration.inclination_min
        return (calibration.inclination_min + steps * spread)[::-1]
    if len(calibration.inclination_values) != height:
        beams = len(calibration.inclination_values)
        raise FrameError('bad lidar', f'laser {calibration.laser} has {beams} beams, its range image {height} rows')
    return np.asarray(calibration.inclination_values, np.float64)[::-1]


def column_azimuths(calibration: LaserCalibration, width: int) -> np.ndarray:
    """Azimuth of each column of a range image, in the LiDAR's own frame.

    The columns run clockwise from the rear of the *vehicle*, hence the correction by the extrinsic's yaw.

    Args:
        calibration: the LiDAR.
        width: columns of the range image.

    Returns:
        (width,) float64, radians.
    """
    yaw = np.arctan2(calibration.extrinsic[1, 0], calibration.extrinsic[0, 0])
    ratios = (np.arange(width, 0, -1) - 0.5) / width
    return (ratios * 2.0 - 1.0) * np.pi - yaw


def laser_points(ranges: np.ndarray, pixels: np.ndarray, calibration: LaserCalibration) -> np.ndarray:
    """Place range image pixels in the vehicle frame of the moment each was fired.

    Args:
        ranges: (H, W) metres.
        pixels: (N,) flat indices into it, row-major.
        calibration: the LiDAR.

    Returns:
        (N, 3) float64 metres. With ranges of 1 and the extrinsic's translation taken off, the beams'
        directions.

    Raises:
        FrameError: see `row_inclinations`.
    """
    height, width = ranges.shape
    rows, columns = np.divmod(pixels, width)
    inclination = row_inclinations(calibration, height)
    azimuth = column_azimuths(calibration, width)
    flat = np.cos(inclination)[rows]
    beams = np.stack([np.cos(azimuth)[columns] * flat, np.sin(azimuth)[columns] * flat, np.sin(inclination)[rows]], 1)
    beams *= ranges.reshape(-1)[pixels].astype(np.float64)[:, None]
    return beams @ calibration.extrinsic[:3, :3].T + calibration.extrinsic[:3, 3]


def apply_pixel_pose(points: np.ndarray, poses: np.ndarray, world_from_vehicle: np.ndarray) -> np.ndarray:
    """Bring points from the vehicle frame of their own moment to that of the frame.

    Args:
        points: (N, 3) metres, as `laser_points` gives them.
        poses: (N, 6) `roll, pitch, yaw, x, y, z`, vehicle to world; rotation Rz(yaw) Ry(pitch) Rx(roll).
        world_from_vehicle: (4, 4), the frame's vehicle pose.

    Returns:
        (N, 3) float64 metres in the frame's vehicle frame.
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


def optical_axis(
    calibration: CameraCalibration, world_from_vehicle: np.ndarray, image_world_from_vehicle: np.ndarray
) -> tuple[np.ndarray, float]:
    """Turn vehicle points into z-depth by `points @ axis + offset`.

    Each camera exposes at its own time, tens of milliseconds from that of the frame's pose (which is the
    FRONT camera's): at 15 m/s a side camera has moved by decimetres. The released projections allow for
    that, so the depth has to as well: points go from the frame's vehicle frame to the world, and from there
    to the vehicle at the image's own `pose.transform`. Where the two poses agree, as for FRONT, this changes
    nothing. The movement during one readout (rolling shutter) is not corrected.

    Args:
        calibration: the camera.
        world_from_vehicle: (4, 4), the frame's vehicle pose.
        image_world_from_vehicle: (4, 4), the vehicle pose of the camera's image.

    Returns:
        (3,) float64 and a float, metres.
    """
    camera_from_world = np.linalg.inv(image_world_from_vehicle @ calibration.extrinsic)
    camera_from_vehicle = camera_from_world @ world_from_vehicle
    return camera_from_vehicle[0, :3], float(camera_from_vehicle[0, 3])


def nearest_per_pixel(x: np.ndarray, y: np.ndarray, depth: np.ndarray, width: int, height: int) -> SparseDepth:
    """Keep the nearest return of each pixel.

    Args:
        x: (N,) float columns; pixel 0 spans [0, 1), so they are rounded down.
        y: (N,) float rows, likewise.
        depth: (N,) float64 z-depth, metres.
        width: image width, pixels.
        height: image height, pixels.

    Returns:
        The pixels, and how many returns had no usable depth or lay outside the image.
    """
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    ahead = (depth > 0) & np.isfinite(depth)
    keep = inside & ahead
    keys = y[keep].astype(np.int64) * width + x[keep].astype(np.int64)
    kept = depth[keep]
    order = np.lexsort((kept, keys))
    keys, first = np.unique(keys[order], return_index=True)
    rows, columns = np.divmod(keys, width)
    return SparseDepth(
        x=columns.astype(np.uint16),
        y=rows.astype(np.uint16),
        depth=kept[order][first].astype(np.float32),
        behind=int((inside & ~ahead).sum()),
        outside=int((~inside).sum()),
    )


def scan_points(
    scan: LaserScan, calibration: LaserCalibration, world_from_vehicle: np.ndarray, cameras: Collection[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Points of one LiDAR that the given cameras see, of all returns in the scan.

    Args:
        scan: the range images with their projections.
        calibration: the LiDAR.
        world_from_vehicle: (4, 4), the frame's vehicle pose.
        cameras: camera numbers; points that none of them sees are left out.

    Returns:
        (N, 3) float64 points in the frame's vehicle frame, metres, and (N, 6) float32 `camera, x, y` twice.

    Raises:
        FrameError: range image, projection, poses and calibration do not fit each other.
    """
    points, projections = [np.empty((0, 3))], [np.empty((0, 6), np.float32)]
    for number, image in scan.range_images.items():
        ranges, projection = image[..., 0], scan.projections.get(number)
        sizes = [None if part is None else part.shape[:2] for part in (projection, scan.pixel_pose)]
        if sizes[0] != ranges.shape or sizes[1] not in (None, ranges.shape):
            which = f'laser {calibration.laser} return {number}'
            found = f'range image {ranges.shape}, projection {sizes[0]}, pixel poses {sizes[1]}'
            raise FrameError('bad lidar', f'{which}: {found} do not fit')
        # Most pixels reach no camera that is asked for: drop them before the trigonometry.
        seen = np.any([projection[..., slot] == camera for slot in (0, 3) for camera in cameras], axis=0)
        pixels = np.flatnonzero(seen & (ranges > 0))
        found = laser_points(ranges, pixels, calibration)
        if scan.pixel_pose is not None:
            found = apply_pixel_pose(found, scan.pixel_pose.reshape(-1, 6)[pixels], world_from_vehicle)
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
    """z-depth per pixel of one camera, of the points of all LiDARs.

    Args:
        points: (N, 3) in the frame's vehicle frame, metres.
        projections: (N, 6) `camera, x, y` twice.
        calibration: the camera.
        world_from_vehicle: (4, 4), the frame's vehicle pose.
        image_world_from_vehicle: (4, 4), the vehicle pose of the camera's image (see `optical_axis`).

    Returns:
        The nearest return of each pixel; empty arrays where no point reaches the camera.
    """
    axis, offset = optical_axis(calibration, world_from_vehicle, image_world_from_vehicle)
    picks = []
    for slot in (0, 3):  # a point may be seen by two cameras
        here = projections[:, slot] == calibration.camera
        picks.append((projections[here, slot + 1], projections[here, slot + 2], points[here] @ axis + offset))
    x, y, depth = (np.concatenate(column) for column in zip(*picks, strict=True))
    return nearest_per_pixel(x, y, depth, calibration.width, calibration.height)
