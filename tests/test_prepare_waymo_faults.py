"""The Waymo preparation loses nothing and is wrong nowhere in silence: damage, kills, impossible values."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import waymo_made as made
from waymo_made import SEGMENT, alter, command, contents, environment, found, index_of, last_line, run, with_cell

from vit22b_dense.waymo.prepare import Job, PrepareError, prepare
from vit22b_dense.waymo.types import Settings

FRONT = Settings((1,), (1, 2, 3, 4, 5), (1,))
NAMES = [SEGMENT, '200_b', '300_c']
RANGES, POSES = ('[LiDARComponent].range_image_return1.values', '[LiDARPoseComponent].range_image_return1.values')
IMAGE_POSE = '[CameraImageComponent].pose.transform'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One segment of two frames."""
    made.write(tmp_path / 'root')
    return tmp_path / 'root'


def quiet(line: str) -> None:
    """Takes the log."""


@pytest.mark.parametrize(('mine', 'theirs'), [((0, 1), (0, 1)), ((0, 2), (0, 1)), ((1, 2), (3, 4))])
def test_a_second_process_is_refused(
    root: Path, tmp_path: Path, mine: tuple[int, int], theirs: tuple[int, int]
) -> None:
    refused = []

    def second(line: str) -> None:
        with pytest.raises(PrepareError, match='another process prepares these segments'):
            prepare(Job(root, tmp_path / 'out', 'training', FRONT, shard=theirs), quiet)
        refused.append(line)

    prepare(Job(root, tmp_path / 'out', 'training', FRONT, shard=mine), second)
    assert refused
    prepare(Job(root, tmp_path / 'out', 'training', FRONT, shard=theirs), quiet)  # the lock went with its owner


def test_shards_without_a_segment_in_common_run_side_by_side(root: Path, tmp_path: Path) -> None:
    made.write(root, '200_b')
    counts = []

    def second(line: str) -> None:
        if not counts:
            counts.append(prepare(Job(root, tmp_path / 'out', 'training', FRONT, shard=(1, 4)), quiet).frames['done'])

    counts.append(prepare(Job(root, tmp_path / 'out', 'training', FRONT, shard=(0, 2)), second).frames['done'])
    assert counts == [2, 2]


def delete(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ('harm', 'kind'), [(delete, 'jpg'), (flip, 'jpg'), (flip, 'npz'), (cut, 'npz'), (cut, 'index.json')]
)
def test_running_again_restores_what_is_damaged(
    root: Path, tmp_path: Path, harm: Callable[[Path], None], kind: str
) -> None:
    made.write(root, '200_b')
    job = Job(root, tmp_path / 'out', 'training', FRONT)
    prepare(job, quiet)
    whole = contents(job.out)
    harm(next(path for path in sorted(job.out.rglob('*')) if path.name.endswith(kind)))
    totals = prepare(job, quiet)
    assert totals.segments == {'done': 1, 'complete': 1}
    assert contents(job.out) == whole
    assert prepare(job, quiet).segments == {'complete': 2}


def test_overwrite_keeps_the_good_segment_until_the_new_one_is_whole(root: Path, tmp_path: Path) -> None:
    job = Job(root, tmp_path / 'out', 'training', FRONT, overwrite=True)
    prepare(job, quiet)
    whole = contents(job.out)
    path = root / 'training' / 'lidar' / f'{SEGMENT}.parquet'
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 5000] = bytes(5000)
    path.write_bytes(data)
    totals = prepare(job, quiet)
    assert (totals.segments, totals.status) == ({'failed': 1}, 1)
    assert contents(job.out) == whole


def test_files_of_others_are_not_removed(root: Path, tmp_path: Path) -> None:
    notes = tmp_path / 'out' / 'training' / SEGMENT / 'notes.txt'
    notes.parent.mkdir(parents=True)
    notes.write_text('mine')
    log: list[str] = []
    job = Job(root, tmp_path / 'out', 'training', FRONT)
    assert prepare(job, log.append).status == 1
    assert any(f'{notes}: not of this tool' in line for line in log)
    assert list(contents(job.out).values()) == [b'mine']


def test_a_kill_between_the_two_renames_is_repaired(root: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    assert run(root, out).returncode == 0
    whole = contents(out)
    code = """
import os, runpy, sys
rename = os.rename
def killed(old, new):
    rename(old, new)
    if str(new).endswith('.former'):
        os.kill(os.getpid(), 9)
os.rename = killed
runpy.run_path(sys.argv[0], run_name='__main__')
"""
    _, *call = command(root, out, '--overwrite')
    code = f'import sys; sys.argv = {call}\n' + code
    done = subprocess.run([sys.executable, '-c', code], env=environment(), capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / 'training' / SEGMENT).exists()
    left = sorted(path.name.rsplit('.')[-1] for path in (out / 'training').glob(f'.{SEGMENT}.*'))
    assert left == ['former', 'owner', 'part']
    again = run(root, out)
    assert '0 frames written, 2 already there' in last_line(again), again.stderr
    assert contents(out) == whole
    (out / 'training' / f'.{SEGMENT}.123.former').mkdir()  # killed after the second rename
    assert run(root, out).returncode == 0
    assert contents(out) == whole
    assert not list((out / 'training').glob(f'.{SEGMENT}.*'))


@pytest.mark.parametrize(
    ('component', 'column', 'value'),
    [
        ('lidar', RANGES, ['far', 'near']),
        ('lidar', RANGES.replace('values', 'shape'), 7),
        ('camera_calibration', '[CameraCalibrationComponent].intrinsic.f_u', 'wide'),
        ('camera_image', '[CameraImageComponent].image', 1.5),
        ('vehicle_pose', 'key.frame_timestamp_micros', 'noon'),
    ],
)
def test_a_wrong_column_type_fails_its_segment_alone(
    root: Path, tmp_path: Path, component: str, column: str, value: object
) -> None:
    made.write(root, '200_b')

    def change(table: pa.Table) -> pa.Table:
        cells = [value] + [None] * (table.num_rows - 1) if component != 'vehicle_pose' else ['noon', 'night']
        return table.set_column(table.column_names.index(column), column, pa.array(cells))

    alter(root, component, change)
    done = run(root, tmp_path / 'out')
    assert done.returncode == 1, done.stderr
    assert f'{component}/{SEGMENT}.parquet: unknown layout of {component}: column {column} is ' in done.stderr
    assert '1 done, 0 complete before, 1 failed' in last_line(done)
    assert index_of(tmp_path / 'out', '200_b')['frames']


@pytest.mark.parametrize('shape', [[-32, -330, 4], [32, None, 4], [32, 330, 0]])
def test_a_bad_shape_skips_its_frame_alone(root: Path, tmp_path: Path, shape: list[int | None]) -> None:
    alter(root, 'lidar', lambda table: with_cell(table, RANGES.replace('values', 'shape'), 0, shape))
    totals = prepare(Job(root, tmp_path / 'out', 'training', FRONT), quiet)
    assert (totals.skipped, totals.frames['done'], totals.status) == ({'bad lidar': 1}, 1, 1)


@pytest.mark.parametrize('name', ['..', '.hidden', '*'])
def test_names_that_lead_elsewhere_are_refused(root: Path, tmp_path: Path, name: str) -> None:
    made.write(root, name)
    done = run(root, tmp_path / 'out' / 'deep')
    assert done.returncode == 2
    assert f'{name}.parquet: {name!r} is no segment name' in done.stderr
    assert not contents(tmp_path / 'out')


def spoiled(values: np.ndarray, how: str) -> np.ndarray:
    """A transform with a fault."""
    matrix = values.reshape(4, 4).copy()
    if how == 'mirrored':
        matrix[:3, 1] *= -1
    elif how == 'scaled':
        matrix[:3, 0] *= 1.01
    elif how == 'transposed':
        matrix = matrix.T
    elif how == 'last row':
        matrix[3, 3] = 2
    else:
        matrix[0, 3] = np.nan
    return matrix.ravel()


def spoil_transform(root: Path, component: str, column: str, how: str) -> None:
    def change(table: pa.Table) -> pa.Table:
        return with_cell(table, column, 0, spoiled(np.array(table[column][0].as_py()), how))

    alter(root, component, change)


@pytest.mark.parametrize('how', ['mirrored', 'scaled', 'transposed', 'last row', 'nan'])
def test_transforms_that_are_not_rigid_are_refused(root: Path, tmp_path: Path, how: str) -> None:
    job = Job(root, tmp_path / 'out', 'training', FRONT, overwrite=True)
    spoil_transform(root, 'camera_image', IMAGE_POSE, how)
    log: list[str] = []
    assert prepare(job, log.append).skipped == {'bad pose': 1}
    assert any('camera_image: pose.transform is no rigid transform: [' in line for line in log)
    for component, prefix, sensor in (
        ('lidar_calibration', '[LiDARCalibrationComponent].', 'laser 1'),
        ('camera_calibration', '[CameraCalibrationComponent].', 'camera 1'),
    ):
        spoil_transform(root, component, f'{prefix}extrinsic.transform', how)
        assert prepare(job, log.append).status == 1
        assert any(f'{component}/{SEGMENT}.parquet: {sensor}: extrinsic.transform is no rigid' in line for line in log)


@pytest.mark.parametrize(
    'beams', [np.linspace(0.05, -0.3, 32), np.r_[np.nan, np.linspace(-0.3, 0.05, 31)], np.linspace(-17, 3, 32)]
)
def test_impossible_beam_inclinations_are_refused(root: Path, tmp_path: Path, beams: np.ndarray) -> None:
    column = '[LiDARCalibrationComponent].beam_inclination.values'
    alter(root, 'lidar_calibration', lambda table: with_cell(table, column, 0, beams))
    log: list[str] = []
    assert prepare(Job(root, tmp_path / 'out', 'training', FRONT), log.append).segments == {'failed': 1}
    assert any(f'lidar_calibration/{SEGMENT}.parquet: laser 1 has no ascending beam' in line for line in log)


def test_intrinsics_must_be_numbers(root: Path, tmp_path: Path) -> None:
    column = '[CameraCalibrationComponent].intrinsic.c_v'
    alter(root, 'camera_calibration', lambda table: with_cell(table, column, 0, np.nan))
    log: list[str] = []
    assert prepare(Job(root, tmp_path / 'out', 'training', FRONT), log.append).segments == {'failed': 1}
    assert any(f'camera_calibration/{SEGMENT}.parquet: camera 1 has impossible intrinsics' in line for line in log)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
    ('component', 'value'),
    [*(('lidar', value) for value in (501.0, 1e30, np.inf, np.nan)), ('lidar_pose', np.inf), ('lidar_pose', np.nan)],
)
def test_impossible_returns_are_dropped_and_counted(root: Path, tmp_path: Path, component: str, value: float) -> None:
    column, channels, channel = (RANGES, 4, 0) if component == 'lidar' else (POSES, 6, 3)
    where = pq.read_table(root / 'training' / 'lidar_camera_projection' / f'{SEGMENT}.parquet')
    where = where['[LiDARCameraProjectionComponent].range_image_return1.values'][0].as_py()
    seen = np.flatnonzero(np.array(where).reshape(-1, 6)[:, 0] == 1)[:7]  # by FRONT, in the first frame, from TOP

    def change(table: pa.Table) -> pa.Table:
        image = np.array(table[column][0].as_py(), np.float32).reshape(-1, channels)
        image[seen, channel] = value
        return with_cell(table, column, 0, image.ravel())

    alter(root, component, change)
    totals = prepare(Job(root, tmp_path, 'training', FRONT), quiet)
    assert totals.dropped == {'behind': 0, 'outside': 0, 'invalid': 7}
    assert (totals.frames['done'], totals.status) == (2, 0)
    for frame in index_of(tmp_path)['frames']:
        with np.load(tmp_path / 'training' / frame['depth']) as arrays:
            assert 0 < arrays['depth'].max() < 60  # the hall's diagonal


@pytest.mark.parametrize('moment', ['as they start', 'as they work'])
def test_ctrl_c_ends_workers_at_once_and_without_a_word(tmp_path: Path, moment: str) -> None:
    for name in NAMES:
        made.write(tmp_path / 'root', name, 4)
    (tmp_path / 'sitecustomize.py').write_text("""
import time, numpy
fast = numpy.savez
numpy.savez = lambda *files, **arrays: (time.sleep(1), fast(*files, **arrays))
""")
    env = environment()
    env['PYTHONPATH'] = f'{tmp_path}{os.pathsep}{env["PYTHONPATH"]}'
    out = tmp_path / 'out'
    call = command(tmp_path / 'root', out, '--workers', '2')
    with subprocess.Popen(call, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        said = process.stderr.readline()
        assert '3 segments, 3 to do' in said
        if moment == 'as they work':
            while not found(out, '*.npz'):
                time.sleep(0.01)
        else:
            time.sleep(0.7)  # the workers import
        os.killpg(process.pid, signal.SIGINT)
        began = time.monotonic()
        said = process.stderr.read()
        assert process.wait() == 130
    assert said.strip().splitlines()[-1] == 'interrupted'
    assert 'Traceback' not in said
    assert time.monotonic() - began < 30
    assert not list((out / 'training').glob('.*.part'))
