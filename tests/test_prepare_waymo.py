"""The Waymo preparation as a user runs it: what it writes, resumes, refuses and counts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import waymo_made as made
from waymo_made import FIRST, alter, command, contents, environment, found, index_of, last_line, run

from vit22b_dense.waymo.parquet import SegmentReader
from vit22b_dense.waymo.prepare import Job, list_segments, prepare
from vit22b_dense.waymo.types import Settings

NAMES = [made.SEGMENT, '200_b', '300_c']
ALL = Settings((1, 2, 3, 4, 5), (1, 2, 3, 4, 5), (1,))


@pytest.fixture(scope='session')
def made_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three segments of two frames; not to be changed."""
    root = tmp_path_factory.mktemp('waymo')
    for name in NAMES:
        made.write(root, name)
    return root


def test_files_and_index(made_root: Path, tmp_path: Path) -> None:
    done = run(made_root, tmp_path, '--cameras', 'FRONT', 'SIDE_LEFT')
    assert done.returncode == 0, done.stderr
    assert '12 frames written' in last_line(done)
    assert '3 done, 0 complete before, 0 failed' in last_line(done)
    assert '3 of 3 segments, 0 s left' in done.stderr
    base = tmp_path / 'training'
    assert len(contents(base)) == 3 * (2 * 2 * 2 + 1)
    index = index_of(tmp_path)
    assert index['settings'] == {'cameras': [1, 4], 'lasers': [1, 2, 3, 4, 5], 'returns': [1]}
    assert [(frame['timestamp'] - FIRST, frame['camera_name']) for frame in index['frames']] == [
        (0, 'FRONT'),
        (0, 'SIDE_LEFT'),
        (100_000, 'FRONT'),
        (100_000, 'SIDE_LEFT'),
    ]
    for frame, made_frame in zip(index['frames'][::2], made.frames(2), strict=True):
        assert (base / frame['image']).read_bytes() == made_frame.images[1].jpeg
        with np.load(base / frame['depth']) as arrays:
            assert {name: arrays[name].dtype.name for name in arrays.files} == {
                'x': 'uint16',
                'y': 'uint16',
                'depth': 'float32',
            }
            assert arrays['x'].shape == arrays['y'].shape == arrays['depth'].shape == (frame['points'],)
            truth = made.true_depth(made.cameras(made.Size())[1], made_frame.images[1].world_from_vehicle)
            off = np.abs(arrays['depth'] / truth[arrays['y'], arrays['x']] - 1)
        assert frame['points'] > 300
        assert (off < 0.05).mean() > 0.94  # coarse: the made images are a tenth of the real size
        assert (frame['width'], frame['height']) == made.Size().image


def test_round_trip(made_root: Path) -> None:
    with SegmentReader(made_root, 'training', NAMES[0], Settings((1, 3), (1, 4), (1, 2))) as reader:
        for timestamp, frame in zip(reader.iterate(), made.frames(2), strict=True):
            assert timestamp == frame.timestamp
            np.testing.assert_array_equal(reader.vehicle_pose(timestamp), frame.world_from_vehicle)
            for n in (1, 3):
                image = reader.image(timestamp, n)
                assert image.jpeg == frame.images[n].jpeg
                np.testing.assert_array_equal(image.world_from_vehicle, frame.images[n].world_from_vehicle)
            for n in (1, 4):
                scan, wrote = reader.scan(timestamp, n), frame.scans[n]
                assert set(scan.range_images) == {1}  # the second return is null
                np.testing.assert_array_equal(scan.range_images[1], wrote.range_images[1])
                np.testing.assert_array_equal(scan.projections[1], wrote.projections[1])
                assert (scan.pixel_pose is None) == (n != 1)
                if n == 1:
                    np.testing.assert_array_equal(scan.pixel_pose, wrote.pixel_pose)
        for calibrations, wrote in ((reader.cameras, made.cameras), (reader.lasers, made.lasers)):
            for n, calibration in calibrations.items():
                for field, value in vars(wrote(made.Size())[n]).items():
                    np.testing.assert_array_equal(getattr(calibration, field), value)


@pytest.mark.parametrize('group', [1, 3, 1000])
def test_any_row_order_and_grouping(tmp_path: Path, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / 'root'
    made.write(root)
    prepare(Job(root, tmp_path / 'plain', 'training', ALL), print)
    random = np.random.default_rng(group)
    for folder in (root / 'training').iterdir():

        def shuffle(table: pa.Table) -> pa.Table:
            table = table.take(pa.array(random.permutation(table.num_rows)))
            return table.select(random.permutation([name for name in table.column_names if name != 'index']).tolist())

        alter(root, folder.name, shuffle, group)
    monkeypatch.setattr('vit22b_dense.waymo.parquet.FRAMES_LOADED', 1)  # a frame at a time
    prepare(Job(root, tmp_path / 'shuffled', 'training', ALL), print)
    assert contents(tmp_path / 'shuffled') == contents(tmp_path / 'plain')


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_resume_after_a_kill(made_root: Path, tmp_path: Path) -> None:
    assert run(made_root, tmp_path / 'whole').returncode == 0
    out = tmp_path / 'killed'
    call = command(made_root, out, '--workers', '2')
    process = subprocess.Popen(call, env=environment(), stderr=subprocess.DEVNULL, start_new_session=True)
    while not found(out, '*.npz'):
        time.sleep(0.01)
    process.kill()
    process.wait()
    until = time.monotonic() + 20
    while group_lives(process.pid):  # the workers end with their parent
        assert time.monotonic() < until
        time.sleep(0.05)
    complete, torn = (out / 'training' / name for name in NAMES[:2])
    shutil.rmtree(complete, ignore_errors=True)
    shutil.copytree(tmp_path / 'whole' / 'training' / complete.name, complete)
    torn.mkdir(exist_ok=True)
    (torn / 'index.json').unlink(missing_ok=True)
    (torn / f'{FIRST}_1.npz').write_bytes(b'torn')
    (torn / f'{FIRST}_5.jpg').write_bytes(b'of other settings')
    (out / 'training' / f'.{torn.name}.123.part').mkdir(exist_ok=True)
    stamp = (complete / 'index.json').stat().st_mtime_ns
    done = run(made_root, out, '--workers', '2')
    assert done.returncode == 0, done.stderr
    assert (complete / 'index.json').stat().st_mtime_ns == stamp
    assert contents(out) == contents(tmp_path / 'whole')
    again = run(made_root, out)
    assert '0 frames written, 6 already there' in last_line(again)
    assert '0 done, 3 complete before' in last_line(again)
    assert last_line(run(made_root, out, '--overwrite')).startswith('6 frames written, 0 of')


def test_other_settings_are_refused(made_root: Path, tmp_path: Path) -> None:
    assert run(made_root, tmp_path).returncode == 0
    before = contents(tmp_path)
    done = run(made_root, tmp_path, '--cameras', 'SIDE_LEFT')
    assert done.returncode == 2
    assert '--overwrite redoes it' in done.stderr
    assert contents(tmp_path) == before
    assert run(made_root, tmp_path, '--cameras', 'SIDE_LEFT', '--overwrite').returncode == 0
    assert {frame['camera'] for frame in index_of(tmp_path)['frames']} == {4}
    assert len(contents(tmp_path)) == len(before)


def test_shards_share_out_the_segments(made_root: Path, tmp_path: Path) -> None:
    shares = [list_segments(made_root, 'training', (1,), (i, 2)) for i in (0, 1)]
    assert shares == [[NAMES[0], NAMES[2]], [NAMES[1]]]
    assert run(made_root, tmp_path, '--shard', '1/2').returncode == 0
    assert [path.name for path in (tmp_path / 'training').glob('[!.]*')] == [NAMES[1]]
    assert run(made_root, tmp_path, '--shard', '5/6').returncode == 0  # more machines than segments


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--shard', '2/2'], 'needs 0 <= i < n'),
        (['--shard', '-1/2'], '--shard'),
        (['--shard', '1'], 'not of the form i/n'),
        (['--workers', '0'], 'at least 1'),
        (['--cameras', 'BACK'], 'invalid choice'),
        (['--returns', '3'], 'invalid choice'),
        (['--split', 'validation'], 'validation: no such folder'),
    ],
)
def test_refused_usage(made_root: Path, tmp_path: Path, more: list[str], message: str) -> None:
    done = run(made_root, tmp_path / 'out', *more)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_full_size_speed_and_memory(tmp_path: Path) -> None:
    """At most 0.5 s of one core per frame of five cameras, and 2 GB; median of three processes."""
    made.write(tmp_path, count=8, size=made.FULL, group_frames=8)
    code = f"""
import resource, sys, time
from pathlib import Path
from vit22b_dense.waymo.segment import prepare_segment
from vit22b_dense.waymo.types import Job, Settings
root, settings = Path(sys.argv[1]), Settings((1, 2, 3, 4, 5), (1, 2, 3, 4, 5), (1,))
began, busy = time.perf_counter(), time.process_time()
index = prepare_segment(Job(root, root / "out", "training", settings), "{made.SEGMENT}")
frames = len(index["frames"]) / 5
print((time.process_time() - busy) / frames, (time.perf_counter() - began) / frames)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""
    measured = []
    for _ in range(3):
        call = [sys.executable, '-c', code, str(tmp_path)]
        done = subprocess.run(call, capture_output=True, text=True, env=environment(), check=True)
        measured.append([float(number) for number in done.stdout.split()[-3:]])
    seconds, wall, gigabytes = np.median(measured, axis=0)
    print(f'{seconds:.3f} s of one core per frame, {wall:.3f} s by the clock, {gigabytes:.2f} GB')
    assert seconds <= 0.5
    assert gigabytes < 2.0
