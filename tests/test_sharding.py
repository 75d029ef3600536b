"""Several processes against one: the same gradients and weights, sharded by FSDP2 and by tensor parallelism."""

import pytest
import sharded
import torch
from conftest import make_ade
from sharded import CASES, config

from vit22b_dense.engine.features.maker import make_features


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_ade(tmp_path_factory.mktemp('data') / 'ade')


@pytest.fixture(scope='module')
def features(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('features')
    make_features(config(data, folder / 'run', 'cached', features=folder), 1, 'fp32')
    return folder


@pytest.fixture(scope='module')
def alone(data, features, tmp_path_factory):
    """What one process sees in each case."""
    folder = tmp_path_factory.mktemp('alone')
    return {
        name: sharded.train(config(data, folder / name, features=features, **case)) for name, case in CASES.items()
    }


@pytest.fixture(scope='module')
def two(data, features, tmp_path_factory):
    """The folder of what two processes see, and their work dirs."""
    folder = tmp_path_factory.mktemp('two')
    tasks = [
        ('trained', dict(out=folder / f'{name}.pth', data=data, work_dir=folder / name, features=features,
                         strategy=dict(data=2), **case))
        for name, case in CASES.items()
    ]  # fmt: skip
    sharded.run(2, tasks, folder)
    return folder


def differences(one, other):
    """The largest difference of the parameters at the end, and of the gradients of any update relative to theirs."""
    assert one['params'].keys() == other['params'].keys()
    assert len(one['gradients']) == len(other['gradients']) > 0
    params = max(float((value - other['params'][name]).abs().max()) for name, value in one['params'].items())
    worst = 0.0
    for mine, theirs in zip(one['gradients'], other['gradients'], strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            worst = max(worst, float((value - theirs[name]).norm() / value.norm().clamp(min=1e-6)))
    return params, worst


@pytest.mark.parametrize('case', CASES)
def test_two_processes_train_as_one(case, alone, two):
    params, gradients = differences(alone[case], torch.load(two / f'{case}.pth'))
    print(case, params, gradients)
    assert params < 1e-5
    assert gradients < 1e-3
    learned = alone[case]['gradients'][0]
    assert any('backbone' in name for name in learned) == (case in ('finetune', 'accumulated'))
    assert len(alone[case]['gradients']) == (4 if case == 'accumulated' else 8)
