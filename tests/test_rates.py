"""Learning rates that are chosen on held-out training images."""

import json

import pytest
import torch
from conftest import make_ade, make_kitti
from mmseg.registry import DATASETS, MODELS
from test_features import config
from torch.utils.data import DataLoader

from vit22b_dense.datasets import SeededInfiniteSampler
from vit22b_dense.engine.config import ConfigError, read_config
from vit22b_dense.engine.features.maker import make_features
from vit22b_dense.engine.members import train_members
from vit22b_dense.engine.rates import choose, held_out, read_rate, use_found_rate
from vit22b_dense.engine.run import build_training
from vit22b_dense.engine.work_dir import WorkDirError, check_same_run


def test_choice_is_the_middle_of_the_rates_as_good_as_the_best():
    rates = [1, 3, 10, 30, 100]
    assert choose(rates, [10, 20, 30, 20, 10]) == 10
    assert choose(rates, [10, 20, 29.5, 29.6, 30]) == 30
    assert choose(rates, [10, 30, 29.5, 29, 10]) == 10  # 29 is not within 3 % of 30: the higher one of two
    assert choose(rates, [10, 30, 29.5, 29.2, 29.1]) == 30
    assert choose(rates, [30, 20, 28, 28.5, 29.5]) == 10  # a dip between good ones is chance
    assert choose(rates, [0.1, 0.102, 0.103, 0.3, 0.4], better=min) == 3
    assert choose(rates, [20, 30, 10, float('nan'), float('nan')]) == 3  # what has diverged counts for nothing


def test_whole_units_are_held_out_each_once():
    units = [f'segment{i // 3}' for i in range(33)]
    folds = held_out(units, 5, 1000)
    assert sorted([i for fold in folds for i in fold]) == list(range(33))
    for fold in folds:
        assert all({units[i] for i in fold}.isdisjoint(units[i] for i in other) for other in folds if other != fold)
        assert len({units[i] for i in fold}) in (2, 3)
    assert held_out(units, 5, 1000) == folds
    assert held_out(units, 5, len(folds[0]) + 1) == folds[:2]
    assert [len(fold) for fold in held_out(['a', 'b', 'c'], 5, 16)] == [1, 1, 1]
    with pytest.raises(ConfigError, match="one 'a' as a whole"):
        held_out(['a', 'a'], 5, 16)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_ade(tmp_path_factory.mktemp('data') / 'ade')


def test_each_rate_trains_as_a_run_with_it_alone(data, tmp_path):
    """The decoder has dropout, so that its random state counts."""
    cfg = config('demo/linear.py', data, None, 'frozen', **{'model.decode_head.dropout_ratio': 0.2})
    cfg.work_dir = str(tmp_path)
    torch.manual_seed(0)
    runner = build_training(cfg)
    runner.model.init_weights()
    start = MODELS.build(cfg.model)
    start.load_state_dict(runner.model.state_dict())

    def batches():
        training = DATASETS.build(cfg.train_dataloader.dataset)
        return DataLoader(training, 2, sampler=SeededInfiniteSampler(training, seed=0), collate_fn=lambda items: dict(
            inputs=[item['inputs'] for item in items], data_samples=[item['data_samples'] for item in items]
        ))  # fmt: skip

    *_, third = train_members(start, cfg, [1e-3, 1e-2, 1e-1], batches(), 0, print)
    (alone,) = train_members(start, cfg, [1e-1], batches(), 0, print)
    weights, expected = third.decode_head.conv_seg.weight, alone.decode_head.conv_seg.weight
    torch.testing.assert_close(weights, expected, atol=0, rtol=0)
    assert not torch.equal(weights, start.decode_head.conv_seg.weight)
    assert (third.decode_head.loss_at, start.decode_head.loss_at) == ('tokens', 'pixels')


@pytest.mark.parametrize('case', ['live', 'cached', 'depth'])
def test_run_takes_the_rate_that_was_found(case, data, tmp_path, capsys):
    leaf, root = ('kitti/linear.py', make_kitti(tmp_path / 'kitti')) if case == 'depth' else ('demo/linear.py', data)

    def again(**overrides):
        cfg = config(leaf, root, tmp_path / 'features', 'cached' if case == 'cached' else 'frozen', **overrides)
        cfg.work_dir, cfg.lr_search, cfg.resume = str(tmp_path / 'run'), True, False
        return cfg

    cfg = again()
    if case == 'cached':
        make_features(cfg, 2, 'fp32')
    own = cfg.optim_wrapper.optimizer.lr
    build_training(cfg).train()
    found = json.loads((tmp_path / 'run' / 'lr.json').read_text())
    assert found['rates'] == [own * factor for factor in (0.1, 0.3, 1.0, 3.0, 10.0)]
    assert found['score'] == ('abs_rel' if case == 'depth' else 'mIoU')
    assert len(set(found['scores'])) > 1  # they learned at different rates
    assert found['lr'] == choose(found['rates'], found['scores'], min if case == 'depth' else max)
    dumped = read_config(tmp_path / 'run' / cfg.filename.rsplit('/')[-1])
    assert (dumped.optim_wrapper.optimizer.lr, dumped.lr_search) == (found['lr'], False)
    assert f'learning rate {found["lr"]:g} ({found["score"]} on held-out training images' in capsys.readouterr().out
    # a run with the same arguments is the same run, with the rate that is known
    other = again()
    with pytest.raises(WorkDirError, match='optim_wrapper.optimizer.lr is'):
        check_same_run(tmp_path / 'run', again(**{'optim_wrapper.optimizer.lr': 0.7}))
    assert use_found_rate(other, other.work_dir)
    check_same_run(tmp_path / 'run', other)
    assert not use_found_rate(other, tmp_path)


def test_what_cannot_be_searched_is_refused(data, tmp_path, monkeypatch):
    def refused(message, regime='frozen', **overrides):
        cfg = config('demo/linear.py', data, None, regime, **overrides)
        cfg.work_dir, cfg.lr_search = str(tmp_path / message[:12]), True
        with pytest.raises(ConfigError, match=message):
            build_training(cfg)

    refused('--lr auto is for a frozen backbone', 'finetune')
    refused("one 'images/training/.*' as a whole; take a larger fraction", fraction='1/16')
    refused('give train_cfg max_iters', **{'train_cfg': dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1)})
    monkeypatch.setenv('WORLD_SIZE', '2')
    refused('searches in one process')
    (tmp_path / 'lr.json').write_text('{"lr": "x"')
    with pytest.raises(ConfigError, match='lr.json: damaged'):
        read_rate(tmp_path)
