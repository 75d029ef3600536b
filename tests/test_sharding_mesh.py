"""Four processes, two by two: data and tensor parallel."""

import json

import pytest
import sharded
import torch
from sharded import CLIPPED, broken_off, config, differences, make_data

from vit22b_dense.engine.record import score_and_record

MESHES = {
    'mesh': dict(data=2, tensor=2),
    'mesh_sequence': dict(data=2, tensor=2, sequence_parallel=True),
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The folder of what four processes see, and of the data."""
    folder = tmp_path_factory.mktemp('four')
    data = make_data(folder / 'data')
    tasks = [
        ('trained', dict(out=folder / f'{name}.pth', data=data, work_dir=folder / name, strategy=mesh, **CLIPPED))
        for name, mesh in MESHES.items()
    ]
    tasks.append(('scored', dict(data=data, work_dir=folder / 'tested', strategy=MESHES['mesh'],
                                 checkpoint=folder / 'mesh/iter_8.dcp', **CLIPPED)))  # fmt: skip
    sharded.run(4, tasks, folder)
    return folder


@pytest.fixture(scope='module')
def alone(runs):
    return sharded.train(config(runs / 'data', runs / 'alone', **CLIPPED))


@pytest.mark.parametrize('name', MESHES)
def test_four_processes_train_as_one(name, alone, runs):
    params, gradients = differences(alone, torch.load(runs / f'{name}.pth'))
    assert params < 1e-5
    assert gradients < 1e-3


def test_a_checkpoint_of_four_is_resumed_by_two(alone, runs):
    folder = broken_off(runs, 'mesh', runs / 'resumed')
    options = dict(data=runs / 'data', work_dir=folder, strategy=dict(data=2), resume=True, out=runs / 'resumed.pth')
    sharded.run(2, [('trained', dict(options, **CLIPPED))], runs / 'tasks')
    resumed = torch.load(runs / 'resumed.pth')['params']
    for name, value in alone['params'].items():
        torch.testing.assert_close(resumed[name], value, atol=1e-5, rtol=0)


def test_four_processes_score_as_one(runs):
    """Those that share the products of a block have the same images, which count once."""
    score_and_record(config(runs / 'data', runs / 'one', **CLIPPED), str(runs / 'mesh/iter_8.dcp'), {})
    one, four = (json.loads((runs / name / 'scores.json').read_text()) for name in ('one', 'tested'))
    assert one['scores'] == four['scores']
    assert len(one['examples']) == len(four['examples']) == 3
