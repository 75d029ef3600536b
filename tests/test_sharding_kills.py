"""A sharded run of which a process is killed: the others end, and it is continued as if nothing had happened."""

import signal

import pytest
import sharded
import torch
from sharded import RANDOM, make_data

from vit22b_dense.files import LEFT

SECONDS = 60  # the time-out of these runs
# which process, and where it dies; a checkpoint is written after 4 and after 8 iterations
KILLS = {
    'the second writes its shards': (1, 'fsync', 2, 'iter_4.dcp'),
    'the first has all shards and not renamed them': (0, 'replace', 3, 'iter_4.dcp'),
    'the first writes its first shards': (0, 'fsync', 1, None),
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('data') / 'ade')


def options(data, folder):
    return dict(data=data, work_dir=folder, strategy=dict(data=2), **RANDOM)


@pytest.fixture(scope='module')
def unbroken(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('unbroken')
    sharded.run(2, [('trained', dict(options(data, folder / 'run'), out=folder / 'run.pth'))], folder)
    return torch.load(folder / 'run.pth')['params']


@pytest.mark.parametrize(
    'point', [p if p == next(iter(KILLS)) else pytest.param(p, marks=pytest.mark.slow) for p in KILLS]
)
def test_killed_and_resumed_equals_unbroken(point, data, unbroken, tmp_path):
    rank, function, number, last = KILLS[point]
    task = dict(options(data, tmp_path / 'run'), rank=rank, function=function, number=number)
    processes = sharded.start(2, [('killed', task)], tmp_path)
    for process in processes:
        process.join(SECONDS + 30)
    codes = [process.exitcode for process in processes]
    assert codes[rank] == -signal.SIGKILL
    assert codes[1 - rank] not in (0, None), 'the other process goes on'
    names = {path.name for path in (tmp_path / 'run').iterdir()}
    assert [name for name in names if name.endswith('.dcp')] == [last] * bool(last)
    if rank == 0:  # otherwise the first process removes what has been written
        assert any(LEFT.fullmatch(name) for name in names)
    again = dict(options(data, tmp_path / 'run'), resume=True, out=tmp_path / 'run.pth')
    sharded.run(2, [('trained', again)], tmp_path / 'tasks')
    resumed = torch.load(tmp_path / 'run.pth')['params']
    for name, value in unbroken.items():
        assert torch.equal(value, resumed[name]), name
    names = {path.name for path in (tmp_path / 'run').iterdir()}
    assert {'iter_4.dcp', 'iter_8.dcp'} == {name for name in names if name.endswith('.dcp')}
    assert not any(LEFT.fullmatch(name) for name in names)
