"""Features computed once: what is stored, what is trained and tested from it, and what is refused."""

import itertools
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import REPO, make_ade, make_kitti
from mmengine.dataset import pseudo_collate
from mmengine.registry import RUNNERS
from mmseg.registry import DATASETS, MODELS
from PIL import Image
from safetensors import safe_open

from vit22b_dense.datasets import SeededInfiniteSampler
from vit22b_dense.engine.config import load_config
from vit22b_dense.engine.features import FeatureError, FeatureMaker, FeatureStore
from vit22b_dense.engine.features.maker import make_features
from vit22b_dense.engine.features.runner import with_features
from vit22b_dense.engine.record import data_digest
from vit22b_dense.engine.run import augment_test, build_test, build_training

CONFIGS = REPO / 'configs'
ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, mlp_dims=64)
CROPS = ('RandomCrop', 'DepthRandomCrop')
STILL = ('Resize', 'RandomResize', 'RandomFlip', 'DepthRandomFlip', 'PhotoMetricDistortion', *CROPS)


def config(leaf, data, features, regime='cached', weights=None, still=False, **overrides):
    """A short run of a tiny backbone; ``still``: without augmentation."""
    cfg = load_config(CONFIGS / leaf, dict(
        backbone='vit22b_tiny', regime=regime, data_root=str(data), weights=weights and str(weights), seed=None,
        features=str(features) if regime == 'cached' and features else None, fraction=overrides.pop('fraction', None),
    ))  # fmt: skip
    cfg.merge_from_dict({
        'model.backbone.arch': dict(_delete_=True, **ARCH), 'model.backbone.img_size': 56,
        'model.decode_head.in_channels': 32, 'model.data_preprocessor.size': (70, 84),
        'train_cfg.max_iters': 4, 'train_dataloader.batch_size': 2, 'launcher': 'none',
    })  # fmt: skip
    cfg.merge_from_dict(overrides)
    for name in ('train', 'test'):
        cfg[f'{name}_dataloader'].update(num_workers=0, persistent_workers=False)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    whole = cfg.train_dataloader.dataset.dataset.dataset
    for step in whole.pipeline:
        if 'Crop' in step['type']:
            step['crop_size'] = (70, 84)
    if still:
        for dataset in (whole, cfg.test_dataloader.dataset):
            dataset.pipeline = [step for step in dataset.pipeline if step['type'] not in STILL]
    return cfg


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_ade(tmp_path_factory.mktemp('data') / 'ade')


@pytest.fixture(scope='module')
def made(data, tmp_path_factory):
    """The features of all six images in one draw, and of the two that are tested."""
    folder = tmp_path_factory.mktemp('features')
    make_features(config('demo/linear.py', data, folder), 1, 'fp32')
    return folder


@pytest.fixture
def features(made, tmp_path):
    """A copy of `made` to be damaged."""
    return shutil.copytree(made, tmp_path / 'features')


def decoder(path):
    return {n: t for n, t in torch.load(path, weights_only=False)['state_dict'].items() if 'backbone' not in n}


CELLS = {
    'demo/linear.py': {},
    'ade20k/upernet.py': {
        'model.test_cfg': dict(_delete_=True, mode='slide', crop_size=(42, 56), stride=(28, 28)),
        'model.backbone.arch.num_layers': 4, 'model.backbone.out_indices': (0, 1, 2, 3), 'model.neck.in_channels': 32,
        'model.neck.out_channels': 64, 'model.decode_head.in_channels': [64] * 4, 'model.decode_head.channels': 64,
    },
    'kitti/linear.py': {'model.test_cfg': dict(_delete_=True, mode='whole_flip')},
}  # fmt: skip


@pytest.mark.parametrize('leaf', CELLS)
def test_trained_and_tested_from_features_equals_live(leaf, data, tmp_path):
    """On the same draws. The cached run is begun as mmseg's own train.py begins it."""
    overrides = {**CELLS[leaf], 'model.data_preprocessor.size': (70, 126)}
    root, scores = make_kitti(tmp_path / 'kitti') if 'kitti' in leaf else data, {}
    digests = {}
    for regime in ('frozen', 'cached'):
        cfg = config(leaf, root, tmp_path / 'features', regime, still=True, **overrides)
        cfg.work_dir = str(tmp_path / regime)
        if regime == 'cached':
            make_features(cfg, 1, 'fp32')
            RUNNERS.build(cfg).train()
        else:
            build_training(cfg).train()
    live, cached = (decoder(tmp_path / regime / 'iter_4.pth') for regime in ('frozen', 'cached'))
    assert live.keys() == cached.keys()
    for name, value in live.items():
        torch.testing.assert_close(cached[name], value, atol=1e-4, rtol=1e-4)
    # the cached run's checkpoint is a usual one: a live test takes it, and gives the scores of the cached test
    for regime in ('frozen', 'cached'):
        cfg = config(leaf, root, tmp_path / 'features', regime, still=True, **overrides)
        cfg.work_dir = str(tmp_path / f'{regime}_test')
        runner = build_test(cfg, str(tmp_path / 'cached/iter_4.pth'))
        scores[regime], digests[regime] = runner.test(), data_digest(runner.test_dataloader.dataset)
    assert digests['cached'] == digests['frozen'] is not None
    # in points: windows go through the live backbone several at a time, and labels at a tie follow the rounding
    assert scores['cached'] == pytest.approx(scores['frozen'], rel=1e-3, abs=0.2, nan_ok=True)


@pytest.mark.parametrize('window', [(9, 20), (200, 300)], ids=['smaller than a patch', 'larger than the image'])
def test_windows_of_odd_sizes_are_predicted_as_live(window, data, tmp_path):
    test_cfg = dict(_delete_=True, mode='slide', crop_size=window, stride=window, logits=True)
    cfg = config('demo/linear.py', data, tmp_path, fraction='1/16', **{'model.test_cfg': test_cfg})
    make_features(cfg, 1, 'fp32')
    predicted, head = [], None
    for run in (cfg, with_features(cfg)):
        model = MODELS.build(run.model).eval()
        model.backbone.draw_weights(FeatureStore.open(tmp_path).weights.seed)
        head = head or model.decode_head.state_dict()
        model.decode_head.load_state_dict(head)
        (sample,) = model.test_step(pseudo_collate([DATASETS.build(run.test_dataloader.dataset)[1]]))
        predicted.append(sample.seg_logits.data)
    assert predicted[0].shape[1:] == (64, 80)
    assert predicted[0].std() > 1e-3
    torch.testing.assert_close(predicted[1], predicted[0], atol=1e-5, rtol=1e-4)


def test_augmented_tests_are_refused(made, data):
    cfg = config('demo/linear.py', data, made)
    augment_test(cfg)
    with pytest.raises(FeatureError, match='features of augmented images are not stored; test with --regime frozen'):
        with_features(cfg)


def test_draws_are_the_configs_own_and_the_first_is_plain(data, tmp_path, capsys):
    cfg = config('demo/linear.py', data, tmp_path, fraction='1/2')
    make_features(cfg, 3, 'fp32')
    told = float(capsys.readouterr().out.split('about ')[1].split(' kB')[0]) * 1000
    assert told == pytest.approx(sum(path.stat().st_size for path in tmp_path.glob('*/*')), rel=0.05)
    assert len(list(tmp_path.glob('test/*'))) == 2
    assert [len(list(tmp_path.glob(f'train{k}/*'))) for k in range(4)] == [3, 3, 3, 0]
    again = tmp_path / 'again'
    make_features(config('demo/linear.py', data, again, fraction='1/2', **{'randomness.seed': 5}), 2, 'fp32')
    for path in tmp_path.glob('train0/*'):
        name = path.name
        label = [load(tmp_path / f'train{k}' / name)['gt_sem_seg'] for k in range(3)]
        assert not torch.equal(label[1], label[2])
        # what is drawn depends on the image and the number of the draw alone
        assert torch.equal(label[1], load(again / 'train1' / name)['gt_sem_seg'])
        # the first: as loaded, cut and filled up
        with safe_open(path, 'pt') as file:
            image = file.metadata()['image']
        stored = torch.tensor(
            list(Image.open(data / image.replace('images', 'annotations').replace('jpg', 'png')).getdata())
        )
        kept = torch.isin(stored.view(64, 80), torch.tensor([2, 3, 5, 7, 12, 13, 21]))
        assert torch.equal(label[0][0, :64, :80] != 255, kept)
        assert (label[0][0, 64:] == 255).all()


def load(path):
    with safe_open(path, 'pt', backend='pread') as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_what_is_there_is_kept_and_what_is_damaged_made_again(features, data):
    cfg = config('demo/linear.py', data, features)
    paths = sorted(features.glob('*/*.safetensors'))
    before = {path: (path.stat().st_mtime_ns, load(path)) for path in paths}
    paths[0].write_bytes(paths[0].read_bytes()[:-9])
    paths[1].unlink()
    for part in range(2):
        maker = FeatureMaker(cfg, features, 1, 'fp32', part=(part, 2))
        maker.make(lambda done, total: None)
    assert FeatureMaker(cfg, features, 1, 'fp32').missing() == []
    for path, (changed, tensors) in before.items():
        assert (path.stat().st_mtime_ns == changed) == (path not in paths[:2])
        for name, tensor in load(path).items():
            torch.testing.assert_close(tensor, tensors[name])


def test_bf16_takes_half_and_draws_are_taken_in_turn(data, tmp_path):
    cfg = config('demo/linear.py', data, tmp_path, **{'features.draws': 2})
    make_features(cfg, 2, 'bf16')
    assert {t.dtype for n, t in load(next(tmp_path.glob('train0/*'))).items() if 'level' in n} == {torch.bfloat16}
    dataset = DATASETS.build(with_features(cfg).train_dataloader.dataset)
    stream = SeededInfiniteSampler(dataset, seed=3)
    seen = [(int(index), int(dataset[index]['inputs'][2])) for index in itertools.islice(stream, 2 * len(dataset))]
    assert sorted(seen) == [(image, draw) for image in range(6) for draw in range(2)]
    assert dataset[0]['data_samples'].gt_sem_seg.data.dtype == torch.uint8
    cfg.model.type = 'EncoderDecoder'  # mmseg's own, whose losses read int64
    labels = DATASETS.build(with_features(cfg).train_dataloader.dataset)[0]['data_samples'].gt_sem_seg.data
    assert labels.dtype == torch.int64
    assert torch.equal(labels, dataset[0]['data_samples'].gt_sem_seg.data)


def refused(features, data, tmp_path):
    """Each way to spoil features, and what the message says."""
    shards = sorted(features.glob('train0/*'))

    def truncate():
        shards[0].write_bytes(shards[0].read_bytes()[:-9])

    def other_data():
        root = shutil.copytree(data, tmp_path / 'data')
        picture = root / 'images/training/00.jpg'
        picture.write_bytes(picture.read_bytes() + b'\0')
        return dict(data=root)

    def other_weights():
        from vit22b_dense import ViT22B

        torch.save(dict(state_dict=ViT22B(ARCH, img_size=56).state_dict()), tmp_path / 'w.pth')
        return dict(weights=tmp_path / 'w.pth')

    return {
        'missing': (shards[0].unlink, r'1 of 6 images are not in train0 \(the first is images/training/.*cache_feat'),
        'truncated': (truncate, rf'{shards[0]} .*not a whole file.*cache_features.py.*makes this one again'),
        'foreign': (lambda: shutil.copy(shards[1], shards[0]), rf'{shards[0]}: belongs to other features'),
        'no index': ((features / 'index.json').unlink, 'no features there'),
        'damaged index': (lambda: (features / 'index.json').write_text('{'), r'index.json: damaged'),
        'data': (other_data, 'the image images/training/00.jpg or its labels have changed since'),
        'weights': (other_weights, "other weights, data or settings: weights.kind is 'random' there and 'file' now"),
        'settings': (lambda: {'model.data_preprocessor.size': (84, 84)}, r'preprocessor.size.0 is 70 there and 84'),
        'levels': (lambda: {'model.backbone.out_indices': (0, 1)}, r'maps of the blocks \(1,\), .* reads \(0, 1\)'),
        'draws': (lambda: {'features.draws': 2}, 'has 1 draws of each image; features.draws=2 is too many'),
    }  # fmt: skip


@pytest.mark.parametrize(
    'fault',
    ['missing', 'truncated', 'foreign', 'no index', 'damaged index', 'data', 'weights', 'settings', 'levels', 'draws'],
)
def test_refused(fault, features, data, tmp_path):
    spoil, message = refused(features, data, tmp_path)[fault]
    changed = spoil()
    cfg = config(
        'demo/linear.py', **(dict(data=data, features=features) | (changed if isinstance(changed, dict) else {}))
    )
    with pytest.raises(FeatureError, match=message):
        DATASETS.build(with_features(cfg).train_dataloader.dataset)


def test_features_that_the_disk_cannot_hold_are_not_begun(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=1000))
    message = r'^work_dirs/features/ADE20KDataset_ViT22B_\w{8}: about .* kB of features do not fit .* has 1.00 kB left'
    with pytest.raises(FeatureError, match=message):
        make_features(config('demo/linear.py', data, None), 1, 'fp32')
    assert not list(tmp_path.iterdir())
