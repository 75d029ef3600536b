"""z-depth from range images: against a plain float64 loop, a ray-cast hall and a sample with its truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import waymo_made as made

from vit22b_dense.waymo.parquet import SegmentReader
from vit22b_dense.waymo.projection import SparseDepth, camera_depth, nearest_per_pixel, row_inclinations, scan_points
from vit22b_dense.waymo.types import (
    CameraCalibration,
    CameraImage,
    Frame,
    FrameError,
    LaserCalibration,
    LaserScan,
    Settings,
)

SHARE, CLOSE, METRES = 0.94, 0.02, 0.005  # what must hold: 94 % within 2 % of the truth; 5 mm to the loop
ALL = Settings((1, 2, 3, 4, 5), (1, 2, 3, 4, 5), (1,))
SIZE = made.Size(image=(480, 320))

Cameras = dict[int, CameraCalibration]
Lasers = dict[int, LaserCalibration]


def depths(frame: Frame, cameras: Cameras, lasers: Lasers) -> dict[int, SparseDepth]:
    """The package's own z-depth of each image of a frame."""
    pose = frame.world_from_vehicle
    parts = [scan_points(scan, lasers[n], pose, list(cameras)) for n, scan in frame.scans.items()]
    points, where = (np.concatenate(column) for column in zip(*parts, strict=True))
    images = frame.images.items()
    return {n: camera_depth(points, where, cameras[n], pose, image.world_from_vehicle) for n, image in images}


def loop(frame: Frame, cameras: Cameras, lasers: Lasers) -> dict[int, dict[tuple[int, int], tuple[float, float]]]:
    """The same, a point at a time with 4x4 matrices: camera to (x, y) to (z-depth, range of that return)."""
    found: dict[int, dict[tuple[int, int], tuple[float, float]]] = {n: {} for n in frame.images}
    for number, scan in frame.scans.items():
        laser = lasers[number]
        image, where = scan.range_images[1].astype(np.float64), scan.projections[1]
        height, width = image.shape[:2]
        yaw = np.arctan2(laser.extrinsic[1, 0], laser.extrinsic[0, 0])
        for row, column in np.argwhere((image[..., 0] > 0) & (where[..., 0] > 0)):
            if laser.inclination_values is not None:
                inclination = laser.inclination_values[height - 1 - row]
            else:
                step = (laser.inclination_max - laser.inclination_min) / height
                inclination = laser.inclination_max - (row + 0.5) * step
            azimuth = np.pi - (column + 0.5) * 2 * np.pi / width - yaw
            distance = image[row, column, 0]
            flat = distance * np.cos(inclination)
            beam = [flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(inclination), 1.0]
            vehicle = laser.extrinsic @ np.array(beam)
            world_from_vehicle = frame.world_from_vehicle
            if scan.pixel_pose is not None:
                roll, pitch, angle, *xyz = scan.pixel_pose[row, column].astype(np.float64)
                world_from_vehicle = made.transform(angle, *xyz, pitch, roll)
            world = world_from_vehicle @ vehicle
            for slot in (0, 3):
                camera = int(where[row, column, slot])
                if camera not in found:
                    continue
                pose = frame.images[camera].world_from_vehicle @ cameras[camera].extrinsic
                depth = float((np.linalg.inv(pose) @ world)[0])
                pixel = int(where[row, column, slot + 1]), int(where[row, column, slot + 2])
                if depth > 0 and depth < found[camera].get(pixel, (np.inf, 0))[0]:
                    found[camera][pixel] = depth, distance
    return found


def difference(depth: SparseDepth, reference: dict[tuple[int, int], tuple[float, float]]) -> float:
    """Largest difference in metres; the pixels have to be the same."""
    pixels = list(zip(depth.x.tolist(), depth.y.tolist(), strict=True))
    assert len(pixels) > 100
    assert set(pixels) == set(reference)
    return float(np.abs([reference[p][0] - d for p, d in zip(pixels, depth.depth.tolist(), strict=True)]).max())


def share(depth: SparseDepth, truth: np.ndarray, step: int = 1) -> float:
    """Share of the pixels whose depth is within 2 % of the truth, of every `step`-th pixel (0 = none)."""
    rows = np.minimum(depth.y // step, truth.shape[0] - 1)
    true = truth[rows, np.minimum(depth.x // step, truth.shape[1] - 1)]
    known = true > 0
    return float((np.abs(depth.depth - true)[known] <= CLOSE * true[known]).mean())


def without_pixel_pose(frame: Frame) -> Frame:
    """A frame as one reads it who overlooks `lidar_pose`."""
    scans = {n: dataclasses.replace(scan, pixel_pose=None) for n, scan in frame.scans.items()}
    return dataclasses.replace(frame, scans=scans)


def range_as_depth(depth: SparseDepth, reference: dict[tuple[int, int], tuple[float, float]]) -> SparseDepth:
    """A depth as one makes it who takes channel 0 for z-depth."""
    pixels = zip(depth.x.tolist(), depth.y.tolist(), strict=True)
    return dataclasses.replace(depth, depth=np.array([reference[pixel][1] for pixel in pixels], np.float32))


def check(frame: Frame, cameras: Cameras, lasers: Lasers, truths: dict[int, np.ndarray], step: int) -> None:
    """Everything that must hold of a frame, and that the common mistakes do not pass for it."""
    ours, reference = depths(frame, cameras, lasers), loop(frame, cameras, lasers)
    overlooked = depths(without_pixel_pose(frame), cameras, lasers)
    ranges = {n: range_as_depth(ours[n], reference[n]) for n in ours}
    for n, depth in ours.items():
        assert difference(depth, reference[n]) <= METRES
        assert share(depth, truths[n], step) >= SHARE
    assert max(difference(overlooked[n], reference[n]) for n in ours) > 4 * METRES
    assert min(share(ranges[n], truths[n], step) for n in ours) < SHARE - 0.1


def test_made_hall() -> None:
    frame = list(made.frames(2, SIZE))[1]
    cameras, lasers = made.cameras(SIZE), made.lasers(SIZE)
    truths = {n: made.true_depth(cameras[n], image.world_from_vehicle) for n, image in frame.images.items()}
    check(frame, cameras, lasers, truths, 1)


def test_side_camera_has_its_own_pose() -> None:
    frame, cameras, lasers = next(made.frames(1, SIZE)), made.cameras(SIZE), made.lasers(SIZE)
    images = {n: CameraImage(image.jpeg, frame.world_from_vehicle) for n, image in frame.images.items()}
    simplified = depths(dataclasses.replace(frame, images=images), cameras, lasers)
    ours, reference = depths(frame, cameras, lasers), loop(frame, cameras, lasers)
    assert difference(simplified[1], reference[1]) <= METRES  # FRONT's pose is the frame's
    for n in (2, 3):  # 12 m/s for 15 ms, at 45 degrees
        assert difference(ours[n], reference[n]) <= METRES
        assert difference(simplified[n], reference[n]) > 0.1


@pytest.mark.parametrize('split', ['training', 'validation'])
def test_sample_against_its_truth(split: str, shared_data: Callable[[str], Path]) -> None:
    root = shared_data('waymo_v2_sample')
    name = next((root / split / 'lidar').iterdir()).stem
    with SegmentReader(root, split, name, ALL) as reader:
        timestamp = next(reader.iterate())
        images = {n: reader.image(timestamp, n) for n in ALL.cameras}
        scans = {n: reader.scan(timestamp, n) for n in ALL.lasers}
        frame = Frame(timestamp, reader.vehicle_pose(timestamp), images, scans)
    folder = root / 'truth' / name
    truths = {n: np.load(folder / f'{timestamp}_{n}_zdepth_div4.npy') for n in ALL.cameras}
    check(frame, reader.cameras, reader.lasers, truths, 4)


def test_row_inclinations() -> None:
    even = LaserCalibration(2, np.eye(4), -1.0, 1.0)
    np.testing.assert_allclose(row_inclinations(even, 4), [0.75, 0.25, -0.25, -0.75])
    listed = LaserCalibration(1, np.eye(4), -9.0, 9.0, np.array([-0.3, -0.1, 0.0]))
    np.testing.assert_allclose(row_inclinations(listed, 3), [0.0, -0.1, -0.3])
    with pytest.raises(FrameError, match=r'3 beams.*4 rows'):
        row_inclinations(listed, 4)


def test_nearest_per_pixel() -> None:
    x = np.array([3.9, 3.0, 0.0, 9.999, 10.0, -0.1, 5.0, 5.0, 5.0, np.nan, 5.0])
    y = np.array([1.0, 1.5, 0.0, 4.5, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0, 2.0])
    z = np.array([7.0, 6.0, 2.0, 3.0, 1.0, 1.0, 0.0, -4.0, np.nan, 1.0, 500.1])
    depth = nearest_per_pixel(x, y, z, width=10, height=5)
    assert depth.x.tolist() == [0, 3, 9]
    assert depth.y.tolist() == [0, 1, 4]
    assert depth.depth.tolist() == [2.0, 6.0, 3.0]
    assert (depth.behind, depth.outside, depth.invalid) == (2, 3, 2)
    assert (depth.x.dtype, depth.y.dtype, depth.depth.dtype) == (np.uint16, np.uint16, np.float32)


def test_second_return_counts_where_it_is_nearer() -> None:
    first, where = np.zeros((2, 4, 4), np.float32), np.zeros((2, 4, 6), np.float32)
    first[..., 0] = 10
    where[:, 1] = [0, 0, 0, 1, 2, 3]  # both rows' beams at 45 degrees land on one pixel
    second = first.copy()
    second[..., 0] = [[-1, 4, 30, -1], [-1, -1, -1, -1]]  # a projection without a range is no return
    laser = LaserCalibration(2, np.eye(4), -0.1, 0.1)
    camera = CameraCalibration(1, np.zeros(9), made.transform(np.pi / 4, 0, 0, 0), 8, 8)
    nearest = {}
    for returns in ((1,), (1, 2)):
        images = {n: (first, second)[n - 1] for n in returns}
        scan = LaserScan(images, dict.fromkeys(returns, where))
        points, projections = scan_points(scan, laser, np.eye(4), [1])
        depth = camera_depth(points, projections, camera, np.eye(4), np.eye(4))
        assert (depth.behind, depth.outside) == (0, 0)
        nearest[returns] = depth.depth
    np.testing.assert_allclose(nearest[1,], 10 * np.cos(0.05), rtol=1e-6)
    np.testing.assert_allclose(nearest[1, 2], 4 * np.cos(0.05), rtol=1e-6)


@pytest.mark.parametrize('broken', ['projections', 'pixel_pose'])
def test_parts_that_do_not_fit(broken: str) -> None:
    size = made.Size()
    scan = made.scan(made.lasers(size)[1], size, 0.0)
    part = {1: scan.projections[1][:-1]} if broken == 'projections' else scan.pixel_pose[:, :-1]
    with pytest.raises(FrameError, match=r'bad lidar: laser 1 return 1: .* do not fit'):
        scan_points(dataclasses.replace(scan, **{broken: part}), made.lasers(size)[1], made.car(0), [1])
