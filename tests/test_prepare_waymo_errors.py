"""The Waymo preparation on bad input: every fault named, counted and in the exit status."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import waymo_made as made
from waymo_made import SEGMENT, alter, command, contents, environment, index_of, last_line, run, with_cell

from vit22b_dense import files
from vit22b_dense.waymo.parquet import SegmentReader
from vit22b_dense.waymo.prepare import Job, PrepareError, prepare
from vit22b_dense.waymo.types import Settings

ALL = Settings((1, 2, 3, 4, 5), (1, 2, 3, 4, 5), (1,))
COLUMN = '[LiDARComponent].range_image_return1.values'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One segment of two frames."""
    made.write(tmp_path / 'root')
    return tmp_path / 'root'


def at_first(row: dict, key: str, value: int) -> bool:
    """Whether a row is the first frame's of one sensor."""
    return row[key] == value and row['key.frame_timestamp_micros'] == made.FIRST


def keep(table: pa.Table, wanted: Callable[[dict], bool]) -> pa.Table:
    keys = table.select([name for name in table.column_names if name.startswith('key.')]).to_pylist()
    return table.filter(pa.array([wanted(row) for row in keys]))


def test_missing_component(root: Path, tmp_path: Path) -> None:
    (root / 'training' / 'lidar_pose' / f'{SEGMENT}.parquet').unlink()
    done = run(root, tmp_path / 'out')
    assert done.returncode == 1
    assert f'lidar_pose/{SEGMENT}.parquet: missing component lidar_pose of segment {SEGMENT}' in done.stderr
    assert '1 failed' in last_line(done)
    assert not contents(tmp_path / 'out')
    near = run(root, tmp_path / 'near', '--lasers', 'FRONT', 'SIDE_LEFT')
    assert near.returncode == 0  # only TOP needs lidar_pose
    (root / 'training' / 'lidar_pose').rmdir()
    done = run(root, tmp_path / 'out')
    assert done.returncode == 2
    assert 'missing components lidar_pose' in done.stderr


@pytest.mark.parametrize('component', ['lidar', 'camera_image'])
@pytest.mark.parametrize('left', [0.0, 0.5, 0.999])
def test_truncated_parquet(root: Path, tmp_path: Path, component: str, left: float) -> None:
    path = root / 'training' / component / f'{SEGMENT}.parquet'
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])
    totals, log = Job(root, tmp_path / 'out', 'training', ALL), []
    assert prepare(totals, log.append).status == 1
    assert any(f'{component}/{SEGMENT}.parquet: cannot be read' in line for line in log)


def test_damage_within_a_file(root: Path, tmp_path: Path) -> None:
    path = root / 'training' / 'lidar' / f'{SEGMENT}.parquet'
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 5000] = bytes(5000)
    path.write_bytes(data)
    log: list[str] = []
    totals = prepare(Job(root, tmp_path, 'training', ALL), log.append)
    assert (totals.segments['failed'], totals.status) == (1, 1)
    assert any('lidar' in line and 'cannot be read' in line for line in log)
    assert not list(tmp_path.glob('training/*/index.json'))


def test_unknown_layout(root: Path, tmp_path: Path) -> None:
    alter(root, 'lidar', lambda table: table.rename_columns({COLUMN: 'range_image'}))
    log: list[str] = []
    assert prepare(Job(root, tmp_path, 'training', ALL), log.append).status == 1
    message = next(line for line in log if 'unknown layout of lidar' in line)
    assert f"lacks columns ['{COLUMN}']" in message
    assert "'range_image'" in message


def test_rows_of_another_segment_or_twice(root: Path, tmp_path: Path) -> None:
    alter(root, 'lidar', lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    with pytest.raises(ValueError, match='1 rows repeat a key'):
        SegmentReader(root, 'training', SEGMENT, ALL)
    for part in (root / 'training').iterdir():
        (part / f'{SEGMENT}.parquet').rename(part / 'other.parquet')
    with pytest.raises(ValueError, match='holds rows of another segment'):
        SegmentReader(root, 'training', 'other', ALL)


def drop_camera_2(root: Path) -> None:
    alter(
        root,
        'camera_image',
        lambda t: keep(t, lambda r: not at_first(r, 'key.camera_name', 2)),
    )


def drop_laser_3(root: Path) -> None:
    alter(
        root,
        'lidar',
        lambda t: keep(t, lambda r: not at_first(r, 'key.laser_name', 3)),
    )


def drop_pose(root: Path) -> None:
    alter(root, 'vehicle_pose', lambda table: table.slice(1))


def drop_calibration(root: Path) -> None:
    alter(root, 'camera_calibration', lambda t: keep(t, lambda row: row['key.camera_name'] != 5))


def spoil_image(data: bytes) -> Callable[[Path], None]:
    return lambda root: alter(root, 'camera_image', lambda t: with_cell(t, '[CameraImageComponent].image', 0, data))


def spoil_shape(shape: list[int]) -> Callable[[Path], None]:
    column = COLUMN.replace('values', 'shape')
    return lambda root: alter(root, 'lidar', lambda t: with_cell(t, column, 0, shape))


def spoil_extrinsic(root: Path) -> None:
    name = '[VehiclePoseComponent].world_from_vehicle.transform'
    alter(root, 'vehicle_pose', lambda table: with_cell(table, name, 0, [0.0] * 16))


@pytest.mark.parametrize(
    ('spoil', 'reason', 'count'),
    [
        (drop_camera_2, 'no camera image', 1),
        (drop_laser_3, 'no lidar', 5),
        (drop_pose, 'no vehicle pose', 5),
        (drop_calibration, 'no camera calibration', 2),
        (spoil_image(b'no image'), 'bad image', 1),
        (spoil_image(b''), 'bad image', 1),
        (spoil_image(made.jpeg((192, 128))[:-200]), 'bad image', 1),
        (spoil_image(made.jpeg((128, 192))), 'bad image', 1),
        (spoil_shape([64, 3, 4]), 'bad lidar', 5),
        (spoil_shape([32, 660, 2]), 'bad lidar', 5),
        (spoil_shape([330, 32, 4]), 'bad lidar', 5),
        (spoil_extrinsic, 'bad pose', 5),
    ],
)
def test_frames_skipped_and_counted(
    root: Path, tmp_path: Path, spoil: Callable[[Path], None], reason: str, count: int
) -> None:
    spoil(root)
    log: list[str] = []
    totals = prepare(Job(root, tmp_path / 'out', 'training', ALL), log.append)
    assert totals.status == 1
    assert totals.skipped == {reason: count}
    assert f'{10 - count} frames written' in str(totals)
    assert f'{count} skipped ({reason}: {count})' in str(totals)
    assert sum(f'skipped, {reason}: ' in line for line in log) == count
    index = index_of(tmp_path / 'out')
    assert [row['reason'] for row in index['skipped']] == [reason] * count
    assert len(list((tmp_path / 'out').rglob('*.npz'))) == len(index['frames']) == 10 - count
    again = prepare(Job(root, tmp_path / 'out', 'training', ALL), log.append)
    assert (again.status, again.skipped, again.segments) == (1, totals.skipped, {'complete': 1})


def test_frame_without_points_is_written(root: Path, tmp_path: Path) -> None:
    alter(root, 'lidar', lambda t: with_cell(t, COLUMN, 0, [-1.0] * (32 * 330 * 4)))
    done = run(root, tmp_path, '--lasers', 'TOP')
    assert done.returncode == 0, done.stderr
    assert '2 frames written, 1 of these without LiDAR points, 0 skipped' in last_line(done)
    frame = index_of(tmp_path)['frames'][0]
    assert frame['points'] == 0
    with np.load(tmp_path / 'training' / frame['depth']) as arrays:
        assert {name: (arrays[name].dtype.name, arrays[name].shape) for name in arrays.files} == {
            'x': ('uint16', (0,)),
            'y': ('uint16', (0,)),
            'depth': ('float32', (0,)),
        }


def test_full_disk_stops_the_job(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []

    def fsync(number: int) -> None:
        if len(synced) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced.append(number)

    monkeypatch.setattr(files.os, 'fsync', fsync)
    with pytest.raises(PrepareError, match=r'the disk is full .*run again to resume'):
        prepare(Job(root, tmp_path / 'out', 'training', ALL), print)
    assert not contents(tmp_path / 'out')  # nothing but whole segments
    monkeypatch.undo()
    assert prepare(Job(root, tmp_path / 'out', 'training', ALL), print).status == 0


def test_without_pyarrow_it_says_what_to_install(root: Path, tmp_path: Path) -> None:
    (tmp_path / 'pyarrow.py').write_text("raise ModuleNotFoundError('no pyarrow')")
    env = environment() | {'PYTHONPATH': f'{tmp_path}{os.pathsep}{environment()["PYTHONPATH"]}'}
    call = command(root, tmp_path / 'out')
    done = subprocess.run(call, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1
    assert "pip install 'pyarrow>=16'" in done.stderr
    assert 'Traceback' not in done.stderr
    again = subprocess.run([*call[:2], '--help'], capture_output=True, text=True, env=env, check=False)
    assert again.returncode == 0


def test_output_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    made.write(root, '200_b')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'training').write_text('a file where a folder should go')
    for more in ([], ['--workers', '2']):
        done = run(root, tmp_path / 'out', *more)
        assert done.returncode == 2
        assert 'cannot write' in done.stderr
        assert 'Traceback' not in done.stderr
