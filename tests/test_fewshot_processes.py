"""Few-shot cells whose models are spread over processes."""

from argparse import Namespace

import pytest
import torch
from conftest import REPO, make_ade
from test_fewshot_tool import CONFIG, OPTIONS, command

from vit22b_dense.checkpoint import open_weights
from vit22b_dense.engine.rates import SEARCH
from vit22b_dense.engine.work_dir import find_checkpoint
from vit22b_dense.errors import UserError
from vit22b_dense.fewshot.cells import results
from vit22b_dense.fewshot.plan import Backbone, plan_cells
from vit22b_dense.fewshot.processes import Processes


def flags(**given):
    none = dict(tp=None, sequence_parallel=False, async_tp=False, nproc=None, jobs=1, cached=False, lr=None)
    return Namespace(**{'strategy': 'fsdp2', **none, **given})


def planned(data_root, work_dir, **given):
    backbones = [Backbone.parse('vit22b_tiny')]
    processes = Processes.of(flags(**given))
    (cell,) = plan_cells(
        CONFIG, backbones, ['1/2'], [0], work_dir, REPO / 'tools', 'scratch', str(data_root), OPTIONS,
        processes=processes,
    )  # fmt: skip
    return cell


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    return make_ade(tmp_path_factory.mktemp('data') / 'ade')


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(), '--strategy fsdp2: needs --nproc N'),
        (dict(nproc=4, tp=3), '--tp 3: does not divide the 4 processes'),
        (dict(nproc=2, jobs=2), '--jobs 2: each cell has all 2 processes'),
        (dict(nproc=2, lr=SEARCH), '--lr auto: the rate is searched by one process'),
        (dict(nproc=2, cached=True), 'cached: cells on cached features have no backbone'),
        (dict(strategy=None, nproc=2), '--nproc, --tp, .*: need --strategy fsdp2'),
    ],
)
def test_flags_that_do_not_fit(given, message):
    with pytest.raises(UserError, match=message):
        Processes.of(flags(**given))


def test_torchrun_is_left_out(monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'x')
    with pytest.raises(UserError, match='leave torchrun out; with --nproc N it is started for each cell'):
        Processes.of(flags(nproc=2))


def test_each_tool_is_started_in_all_processes_which_share_the_batch(data_root, tmp_path):
    one = planned(data_root, tmp_path, strategy=None)
    cell = planned(data_root, tmp_path, nproc=4, tp=2, sequence_parallel=True)
    assert cell.entry == one.entry  # the same table
    for name, line in cell.commands().items():
        assert line[1].endswith('torch/distributed/run.py')
        assert line[2:5] == ['--standalone', '--nproc_per_node=4', str(REPO / f'tools/{name}.py')]
        at = line.index('--strategy')
        assert line[at : at + 5] == ['--strategy', 'fsdp2', '--tp', '2', '--sequence-parallel']
        assert line[-1] == 'train_dataloader.batch_size=1'
    assert f'{cell.work_dir}/iter_6.dcp' in cell.commands()['test']
    with pytest.raises(UserError, match='--nproc 4: 4 processes .* do not divide the batch of 2 images'):
        planned(data_root, tmp_path, nproc=4)


@pytest.mark.slow
def test_a_cell_of_two_processes_equals_that_of_one(data_root, tmp_path, run_tool):
    still = [*OPTIONS, 'model.decode_head.dropout_ratio=0.0', 'model.backbone.drop_path_rate=0.0']
    found = {}
    for name, more in (('one', []), ('two', ['--strategy', 'fsdp2', '--nproc', '2'])):
        run_tool(*command(tmp_path / name, data_root, *more, options=still))
        (cell,) = plan_cells(
            CONFIG, [Backbone.parse('vit22b_tiny')], ['1/2'], [0], tmp_path / name, REPO / 'tools', 'scratch',
            str(data_root), still,
        )  # fmt: skip
        (entry,) = results([cell], tmp_path / name)
        weights = open_weights(find_checkpoint(cell.work_dir))
        found[name] = entry.scores['mIoU'], {key: weights.read(key) for key in weights}
    assert found['one'][0] == pytest.approx(found['two'][0])
    for key, value in found['one'][1].items():
        torch.testing.assert_close(found['two'][1][key], value, atol=1e-5, rtol=0)
