"""Made Waymo segments: a car drives through a hall, its LiDARs and cameras are cast against the walls."""

from __future__ import annotations

import io
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vit22b_dense.waymo.types import CameraCalibration, CameraImage, Frame, LaserCalibration, LaserScan
from vit22b_dense.waymo.writer import camera_projections, laser_rays, write_segment

TOOL = Path(__file__).resolve().parents[1] / 'tools' / 'prepare_waymo.py'
SEGMENT = '1000000000000000001_0_000_20_000'
FIRST = 1_500_000_000_000_000  # timestamp of the first frame, microseconds
# The hall in world coordinates, far from the origin as the released ones are: two opposite corners, metres.
HALL = np.array([[9_000.0, -5_000.0, 100.0], [9_050.0, -4_970.0, 108.0]])
HEADING = 0.3  # radians, of the world's x axis
SPEED, SPIN = 12.0, 0.1  # metres per second, seconds
CAMERA_YAWS = {1: 0.0, 2: 0.78, 3: -0.78, 4: 1.57, 5: -1.57}
CAMERA_DELAYS = {1: 0.0, 2: -0.015, 3: 0.015, 4: -0.03, 5: 0.03}  # seconds from the frame's pose
LASER_YAWS = {1: 2.6, 2: 0.0, 3: 1.57, 4: -1.57, 5: 3.1}


@dataclass(frozen=True)
class Size:
    """How large the made sensors are: images (width, height), range images (rows, columns)."""

    image: tuple[int, int] = (192, 128)
    top: tuple[int, int] = (32, 330)
    near: tuple[int, int] = (20, 60)


FULL = Size((1920, 1280), (64, 2650), (200, 600))


def transform(yaw: float, x: float, y: float, z: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """(4, 4) Rz(yaw) Ry(pitch) Rx(roll) and a translation."""
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    rz = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    ry = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    rx = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = rz @ ry @ rx, (x, y, z)
    return result


def pose_at(seconds: np.ndarray | float) -> np.ndarray:
    """(..., 6) `roll, pitch, yaw, x, y, z` of the car, turning slowly."""
    t = np.asarray(seconds, np.float64)
    start, yaw = HALL.mean(axis=0), HEADING + 0.2 * t
    x, y = start[0] + SPEED * t * np.cos(HEADING), start[1] + SPEED * t * np.sin(HEADING)
    return np.stack([0 * t + 0.01, 0 * t - 0.02, yaw, x, y, 0 * t + HALL[0, 2]], axis=-1)


def car(seconds: float) -> np.ndarray:
    """(4, 4) vehicle to world."""
    roll, pitch, yaw, x, y, z = pose_at(seconds)
    return transform(yaw, x, y, z, pitch, roll)


def cameras(size: Size) -> dict[int, CameraCalibration]:
    width, height = size.image
    focal = width * 1.06
    lens = np.array([focal, focal, width / 2, height / 2, 0, 0, 0, 0, 0], np.float64)
    return {
        n: CameraCalibration(n, lens, transform(yaw, 1.5, 0.1 * n, 2.1, 0.01), width, height)
        for n, yaw in CAMERA_YAWS.items()
    }


def lasers(size: Size) -> dict[int, LaserCalibration]:
    """TOP with uneven beams, the others with even ones between two bounds."""
    beams = np.sort(-0.3 + 0.35 * np.linspace(0, 1, size.top[0]) ** 0.8)
    found = {1: LaserCalibration(1, transform(LASER_YAWS[1], 1.4, 0, 2.2, 0.005), -0.31, 0.05, beams)}
    for n in (2, 3, 4, 5):
        found[n] = LaserCalibration(n, transform(LASER_YAWS[n], 2.0, 0.3 * (n - 3), 0.9, 0.02), -0.9, 0.5)
    return found


def distance(origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """How far rays (..., 3) from inside the hall go until a wall."""
    with np.errstate(divide='ignore'):
        hits = (np.where(directions > 0, HALL[1], HALL[0]) - origins) / directions
    return hits.min(axis=-1)


def true_depth(camera: CameraCalibration, pose: np.ndarray) -> np.ndarray:
    """(height, width) z-depth at the pixels' centres, by casting the camera's own rays."""
    f_u, f_v, c_u, c_v = camera.intrinsic[:4]
    v, u = np.mgrid[: camera.height, : camera.width] + 0.5
    rays = np.stack([np.ones_like(u), (c_u - u) / f_u, (c_v - v) / f_v], axis=-1)  # 1 along the optical axis
    world = pose @ camera.extrinsic
    return distance(world[:3, 3], rays @ world[:3, :3].T)


def jpeg(size: tuple[int, int], seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (size[1] // 8, size[0] // 8, 3), np.uint8)
    return cv2.imencode('.jpg', cv2.resize(noise, size))[1].tobytes()


def scan(laser: LaserCalibration, size: Size, seconds: float, seed: int = 0) -> LaserScan:
    """A spin: TOP sweeps while the car moves, so that each column has its own pose."""
    shape = size.top if laser.laser == 1 else size.near
    pose = None
    if laser.laser == 1:
        sweep = seconds + SPIN * (np.arange(shape[1]) / shape[1] - 0.5)
        pose = np.broadcast_to(pose_at(sweep)[None], (*shape, 6)).astype(np.float32)
    origin, direction = laser_rays(laser, *shape, car(seconds), pose)
    far = distance(origin, direction)
    random = np.random.default_rng(seed)
    valid = random.random(shape) > 0.05
    ranges = random.random((*shape, 4)).astype(np.float32)  # intensity and the like: noise
    ranges[..., 0] = far
    ranges[~valid] = -1
    poses = {n: car(seconds + delay) for n, delay in CAMERA_DELAYS.items()}
    where = camera_projections(origin + far[..., None] * direction, valid, cameras(size).values(), poses)
    return LaserScan({1: ranges}, {1: where}, pose)


def frames(count: int, size: Size = Size()) -> Iterator[Frame]:
    for i in range(count):
        seconds = i * SPIN
        images = {
            n: CameraImage(jpeg(size.image, 10 * i + n), car(seconds + delay)) for n, delay in CAMERA_DELAYS.items()
        }
        scans = {n: scan(laser, size, seconds, i) for n, laser in lasers(size).items()}
        yield Frame(FIRST + i * 100_000, car(seconds), images, scans)


def write(root: Path, name: str = SEGMENT, count: int = 2, size: Size = Size(), group_frames: int = 1) -> None:
    write_segment(
        root,
        'training',
        name,
        cameras(size).values(),
        lasers(size).values(),
        frames(count, size),
        group_frames,
    )


def command(root: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, str(TOOL), str(root), str(out), '--split', 'training', *more]


def environment() -> dict[str, str]:
    return os.environ | {'PYTHONPATH': str(TOOL.parents[1])}


def run(root: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The tool, as a user calls it, but in this process: it need not import everything again."""
    call = command(root, out, *more)
    stdout, stderr, argv = io.StringIO(), io.StringIO(), sys.argv
    try:
        sys.argv = call[1:]
        with redirect_stdout(stdout), redirect_stderr(stderr):
            runpy.run_path(call[1], run_name='__main__')
        status = 0
    except SystemExit as end:
        status = end.code
    finally:
        sys.argv = argv
    return subprocess.CompletedProcess(call, status, stdout.getvalue(), stderr.getvalue())


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout.strip().splitlines()[-1]


def contents(out: Path) -> dict[str, bytes]:
    """Files by their path in a folder, without the locks."""
    files = [path for path in sorted(out.rglob('*')) if path.is_file() and path.suffix != '.lock']
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def index_of(out: Path, name: str = SEGMENT) -> dict:
    return json.loads((out / 'training' / name / 'index.json').read_text())


def alter(root: Path, component: str, change: Callable[[pa.Table], pa.Table], group: int = 1000) -> None:
    """Rewrite a component of the made segment."""
    path = root / 'training' / component / f'{SEGMENT}.parquet'
    pq.write_table(change(pq.read_table(path)), path, row_group_size=group, compression='brotli')


def with_cell(table: pa.Table, name: str, row: int, value: object) -> pa.Table:
    at = table.column_names.index(name)
    cells = [value if i == row else cell.as_py() for i, cell in enumerate(table[name])]
    return table.set_column(at, table.field(at), pa.array(cells, table.field(at).type))


def found(out: Path, pattern: str) -> bool:
    """Whether a folder that a tool is writing to holds a file of that name by now."""
    try:
        return any(out.rglob(pattern))
    except FileNotFoundError:  # renamed while it was being listed
        return False
