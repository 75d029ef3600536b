"""No input is lost, nothing wrong passes in silence, and every message names its file, whatever is done to the tools.

`make test-faults` runs all cases; `make test` those of `WORST`.
"""

import re
import time
from functools import partial

import kills
import pytest
import world
from cases import disk_full_from, every_case
from judging import judge
from running import run

SEGMENT = '1000000000000000001_0_000_20_000'
WORST = {
    'train:config:model = dict(', 'train:config:_base_ = ["absent.py"]', 'train:config:_base_ = ["seg.py"]',
    'train:--cfg-options train_cfg.max_iters=0', 'train:--cfg-options a', 'train:--work-dir seg.py/run',
    'train:--seed 4294967296', 'train:--data-root ', 'train:--launcher pytorch', 'train:--weights absent.pth',
    'frozen:w.safetensors:weights_nan', 'resume:out/half/last_checkpoint:noise', 'resume:out/half/seg.py:noise',
    'resume:out/half/iter_2.pth:integer', 'test:--weights absent.pth', 'test:--out seg.py/x',
    'predict:run/iter_4.pth:bad_cfg', 'predict:ade/images/validation/01.jpg:fifo', 'predict:disk full at 100',
    'predict:--out-dir seg.py', 'convert:w.safetensors:cut', 'convert:disk full at 3000',
    'report:few/table.csv:seed', f'report:few/{world.CELL}/test/scores.json:mIoU_high', 'report:--out /proc/x',
    f'dry:few/{world.CELL}/subset.txt:other', 'dry:few/table.csv:noise',
    'dry:--backbones vit22b_tiny=absent.pth', 'subset:ade/images/training/03.jpg:folder',
    'subset:disk full at 20', 'subset:--write seg.py/x', 'test:ade/images/validation/01.jpg:broken_link',
    'test:run/iter_4.pth:weights_nan', 'test:disk full at 500',
    f'test_depth:prepared/validation/{SEGMENT}/1500000000000000_1.npz:depth_nan',
    f'prepare:source/training/lidar_calibration/{SEGMENT}.parquet:nan',
    f'prepare:source/training/vehicle_pose/{SEGMENT}.parquet:huge',
    f'prepare:source/training/lidar/{SEGMENT}.parquet:text',
    f'prepare:source/training/camera_image/{SEGMENT}.parquet:cut',
}  # fmt: skip
KILLED = {f'convert {point}' for name, point in kills.POINTS if name == 'convert'} | {'cache at replace 4'}
CASES = every_case()


def test_the_worst_are_cases():
    assert {case.name for case in CASES} >= WORST
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.fixture(scope='session')
def made(tmp_path_factory):
    return world.build(tmp_path_factory.mktemp('made') / 'world')


@pytest.fixture(scope='session')
def undisturbed(made, tmp_path_factory):
    """A function from a command to what it makes, and the seconds that it takes."""
    known = {}

    def of(name):
        if name not in known:
            place = world.copied(made, tmp_path_factory.mktemp('undisturbed'))
            began = time.monotonic()
            outcome = run(world.COMMANDS[name], place)
            assert outcome.status == 0, outcome.said[-3000:]
            known[name] = world.result(place / 'out'), time.monotonic() - began
        return known[name]

    return of


def all_or_worst(names, worst):
    return [name if name in worst else pytest.param(name, marks=pytest.mark.faults) for name in names]


@pytest.mark.parametrize('name', all_or_worst([case.name for case in CASES], WORST))
def test_a_fault_is_named_or_does_no_harm(name, made, undisturbed, tmp_path):
    case = next(case for case in CASES if case.name == name)
    # what is refused before anything is made needs no comparison
    kind, said = judge(case, made, tmp_path, lambda: undisturbed(case.command)[0])
    assert kind == 'good', said[-4000:]


@pytest.mark.parametrize(
    ('name', 'point'),
    [
        pytest.param(
            name, point, id=f'{name} {point}', marks=() if f'{name} {point}' in KILLED else pytest.mark.faults
        )
        for name, point in kills.POINTS
    ],
)
def test_killed_at_a_point_and_started_again(name, point, made, undisturbed, tmp_path):
    outcome, out = kills.killed_and_repeated(name, made, tmp_path, point)
    assert outcome.status == 0, outcome.said[-3000:]
    assert world.result(out) == undisturbed('prepare' if name in kills.MORE else name)[0]
    assert not kills.leftovers(out)


def test_features_on_a_full_disk_are_finished_once_there_is_room(made, undisturbed, tmp_path):
    place = world.copied(made, tmp_path)
    full = run(world.COMMANDS['cache'], place, partial(disk_full_from, 4))
    assert full.status == 1
    last = full.said.strip().splitlines()[-1]
    assert re.fullmatch(r'error: out/features/train0/\w+\.safetensors: cannot be written .*No space left.*again', last)
    assert 'Traceback' not in full.said
    kept, expected = world.result(place / 'out'), undisturbed('cache')[0]
    assert sum(name.startswith('features/') for name in kept) == 3, 'the index, two shards, and nothing in part'
    assert kept.items() <= expected.items()
    assert run(world.COMMANDS['cache'], place).status == 0
    assert world.result(place / 'out') == expected


@pytest.mark.faults
@pytest.mark.parametrize(('name', 'share'), kills.moments(50))
def test_killed_at_any_moment_and_started_again(name, share, made, undisturbed, tmp_path):
    expected, seconds = undisturbed('prepare' if name in kills.MORE else name)
    outcome, out = kills.killed_and_repeated(name, made, tmp_path, seconds=share * seconds)
    assert outcome.status == 0, outcome.said[-3000:]
    assert world.result(out) == expected
    assert not kills.leftovers(out)
