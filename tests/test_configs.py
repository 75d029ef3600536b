"""Every shipped config is a test case: it builds, and it resolves to what its file says."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import REPO
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS
from mmseg.registry import DATASETS, METRICS, MODELS

from vit22b_dense.engine.config import AXES, ConfigError, axis_values, check_data, default_work_dir, load_config

CONFIGS = REPO / 'configs'
LEAVES = sorted(str(p.relative_to(CONFIGS)) for p in CONFIGS.glob('[!_]*/*.py'))
# A depth config is assembled from a task whose name ends so.
DEPTH = [leaf for leaf in LEAVES if re.search(r"tasks/\w+_depth\.py'", (CONFIGS / leaf).read_text())]
DENSE = [leaf for leaf in LEAVES if not leaf.startswith('pretrain/')]
SEGMENTATION = [leaf for leaf in DENSE if leaf not in DEPTH]
BACKBONES = axis_values(CONFIGS / LEAVES[0], 'backbone')
FRACTIONS = {'1': 80000, '1/2': 40000, '1/4': 20000, '1/8': 10000, '1/16': 5000}
# config folder and stem's ending -> dataset type, classes, training images folder or list
DATA = {
    'ade20k': ('ADE20KDataset', 150),
    'pascal_voc12': ('PascalVOCDataset', 21),
    '_59': ('PascalContextDataset59', 59),
    '_60': ('PascalContextDataset', 60),
    'camvid': ('FolderSegDataset', 11),
    'cityscapes': ('CityscapesByCity', 19),
    'own_data': ('FolderSegDataset', 4),
    'demo': ('ADE20KDataset', 7),
}
# config folder of depth -> dataset type, size in training, crop and average of the scores, loading, max_depth
DEPTH_DATA = {
    'waymo': ('WaymoDepthDataset', (224, 224), None, 'pixel', 'LoadSparseDepth', 80),
    'demo': ('WaymoDepthDataset', (224, 224), None, 'pixel', 'LoadSparseDepth', 80),
    'kitti': ('KITTIDepthDataset', (350, 700), 'garg', 'image', 'LoadDepthPNG', 80),
    'nyu': ('NYUDepthDataset', (448, 560), 'nyu', 'image', 'LoadDepthPNG', 10),
}
# a leaf for each way to take a backbone's maps: one, several in a pyramid, several as they are
EVERY_DECODER = ('ade20k/linear.py', 'ade20k/upernet.py', 'kitti/dpt.py')
LISTS = {'nyu': ('nyu_train.txt', 'nyu_test.txt'), '_eigen.py': ('kitti_eigen_train.txt', 'kitti_eigen_test.txt')}


@pytest.fixture(autouse=True)
def _default_axes(monkeypatch):
    for variable, _ in AXES.values():
        monkeypatch.setenv(variable, 'restored after the test')
        monkeypatch.delenv(variable)


def load(leaf, overrides=None, **axes) -> Config:
    return load_config(CONFIGS / leaf, {axis: axes.get(axis) for axis in AXES}, overrides)


def build_on_meta(cfg):
    with torch.device('meta'):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('leaf', LEAVES)
def test_a_run_reads_at_most_eight_config_files(leaf, monkeypatch):
    read, original = set(), Config._file2dict

    def file2dict(filename, *args, **options):
        read.add(Path(filename).resolve())
        return original(filename, *args, **options)

    monkeypatch.setattr(Config, '_file2dict', staticmethod(file2dict))
    load(leaf)
    assert 6 <= len(read) <= 8


def test_the_promised_configs_are_there():
    expected = {
        f'{d}/{h}.py' for d in ('ade20k', 'pascal_voc12', 'camvid', 'cityscapes') for h in ('linear', 'upernet')
    }
    expected |= {f'pascal_voc12/{h}_aug.py' for h in ('linear', 'upernet')}
    expected |= {f'pascal_context/{h}_{n}.py' for h in ('linear', 'upernet') for n in (59, 60)}
    assert {'internvit_6b', 'vit_g', 'vit_e', 'dinov2_small', 'dinov2_reg_giant', 'dinov3_7b'} <= set(BACKBONES)
    depth = {f'{d}/{h}.py' for d in ('waymo', 'kitti') for h in ('linear', 'dpt')}
    depth |= {f'kitti/{h}_eigen.py' for h in ('linear', 'dpt')} | {f'nyu/{h}_depth.py' for h in ('linear', 'dpt')}
    depth |= {'demo/linear_depth.py', 'demo/dpt.py'}
    assert expected | depth | {'demo/linear.py'} <= set(LEAVES)
    assert set(DEPTH) == depth
    assert {'vit22b_tiny', 'vit22b_small', 'vit22b_base', 'vit22b_large', 'vit22b'} <= set(BACKBONES)


# width, depth and heads that the published models have
HUB = {
    'small': (384, 12, 6),
    'base': (768, 12, 12),
    'large': (1024, 24, 16),
    'giant': (1536, 40, 24),
    '7b': (4096, 40, 32),
}
HUB_CLASSES = {'dinov2_reg': 'Dinov2WithRegistersConfig', 'dinov2': 'Dinov2Config', 'dinov3': 'DINOv3ViTConfig'}


def weights_for(backbone, folder):
    """A folder that stands for the hub's: the config of the published sizes, without weights."""
    kind, _, size = backbone.rpartition('_')
    if kind not in HUB_CLASSES:
        return None
    transformers = pytest.importorskip('transformers')
    width, depth, heads = HUB[size]
    make = getattr(transformers, HUB_CLASSES[kind])
    patch = 16 if kind == 'dinov3' else 14
    make(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, patch_size=patch).save_pretrained(
        folder
    )
    return str(folder)


@pytest.mark.parametrize(
    ('leaf', 'backbone'),
    [(leaf, b) for leaf in DENSE for b in BACKBONES if b == 'vit22b_base' or leaf in EVERY_DECODER],
)
def test_every_config_builds_with_its_decoder_on_every_backbone(leaf, backbone, tmp_path):
    if backbone.startswith('deit3'):
        pytest.importorskip('timm', exc_type=ImportError)
    cfg = load(leaf, backbone=backbone, weights=weights_for(backbone, tmp_path))
    model = build_on_meta(cfg)
    patch = model.backbone.patch_size
    sizes = [cfg.model.data_preprocessor['size'], *(v for k, v in cfg.model.test_cfg.items() if k != 'mode')]
    assert all(side % patch == 0 for size in sizes for side in size)
    assert 'test_cfg' not in cfg.model.data_preprocessor  # nothing is padded to the patch
    if 'neck' in cfg.model:
        assert cfg.model.backbone.out_indices[-1] == model.backbone.num_layers - 1
    assert model.backbone.frozen
    maps = model.extract_feat(torch.zeros(1, 3, 70, 56, device='meta'))
    assert model.decode_head(maps).shape[:2] == (1, model.num_classes)
    assert model.num_classes > 1 or leaf in DEPTH


@pytest.mark.parametrize('leaf', SEGMENTATION)
def test_every_segmentation_config_resolves_to_what_its_file_says(leaf):
    cfg = load(leaf)
    kind, classes = next(DATA[key] for key in (f'_{leaf[-5:-3]}', leaf.split('/')[0]) if key in DATA)
    head = 'LinearHead' if 'linear' in leaf else 'UPerHead'
    assert (cfg.model.decode_head.type, cfg.model.decode_head.num_classes) == (head, classes)
    assert ('neck' in cfg.model) == (head == 'UPerHead')
    assert cfg.model.backbone.arch == 'base'
    train = cfg.train_dataloader.dataset.dataset
    assert (cfg.train_dataloader.dataset.type, train.type, train.fraction) == ('SeededDataset', 'FewShotSubset', '1')
    parts = train.dataset.get('datasets') or [train.dataset]
    assert len(parts) == (2 if leaf.endswith('_aug.py') else 1)
    for data in [*parts, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset]:
        assert data.type == kind
        labels = [step for step in data.pipeline if step.type == 'LoadLabels']
        assert len(labels) == 1
        if kind != 'FolderSegDataset':  # which tells the classes itself
            assert labels[0].num_classes == classes
        built = DATASETS.get(kind)
        assert len((data.get('metainfo') or built.METAINFO)['classes']) == classes
    assert cfg.val_dataloader == cfg.test_dataloader
    for data in (*parts, cfg.val_dataloader.dataset):
        places = f'{data.get("ann_file", "")} {data.data_prefix} {data.get("split")}'
        assert ('val' in places) == (data not in parts)
        assert ('train' in places or 'aug' in places) == (data in parts)
    if leaf.split('/')[0] not in ('camvid', 'demo', 'own_data'):
        assert cfg.model.data_preprocessor['size'] == (504, 504)
        assert cfg.model.test_cfg == dict(mode='slide', crop_size=(504, 504), stride=(322, 322))
        assert cfg.train_cfg.max_iters == 80000
    assert cfg.custom_imports['imports'] == ['vit22b_dense']


@pytest.mark.parametrize('leaf', DEPTH)
def test_every_depth_config_resolves_to_what_its_file_says(leaf):
    cfg = load(leaf)
    kind, size, crop, average, loading, far = DEPTH_DATA[leaf.split('/')[0]]
    head = cfg.model.decode_head
    assert (head.type, head.max_depth) == ('DPTDepthHead' if 'dpt' in leaf else 'LinearDepthHead', far)
    assert (cfg.model.type, cfg.model.data_preprocessor.type) == ('SparseDepthEstimator', 'DepthDataPreProcessor')
    assert cfg.model.data_preprocessor['size'] == size
    assert cfg.model.backbone.out_indices == (-1,)
    assert cfg.model.test_cfg == dict(mode='whole')
    train = cfg.train_dataloader.dataset.dataset
    assert (cfg.train_dataloader.dataset.type, train.type, train.fraction) == ('SeededDataset', 'FewShotSubset', '1')
    assert train.dataset.type == cfg.val_dataloader.dataset.type == kind
    lists = tuple(data.get('ann_file') for data in (train.dataset, cfg.val_dataloader.dataset))
    assert lists == next((LISTS[key] for key in LISTS if key in leaf), (None, None))
    if lists[0] is None:
        assert 'train' in str(train.dataset.data_prefix)
        assert 'val' in str(cfg.val_dataloader.dataset.data_prefix)
    assert cfg.val_dataloader == cfg.test_dataloader
    steps = [step.type for step in train.dataset.pipeline]
    assert steps[:2] == ['LoadImageFromFile', loading]
    assert steps[-1] == 'PackDepthInputs'
    assert next(step for step in train.dataset.pipeline if step.type == 'DepthRandomCrop').crop_size == size
    # In testing the depth is loaded behind the resize: scores are at the original resolution.
    assert [step.type for step in cfg.test_dataloader.dataset.pipeline][-2:] == [loading, 'PackDepthInputs']
    assert cfg.val_evaluator == cfg.test_evaluator
    assert (cfg.test_evaluator.type, cfg.test_evaluator.max_depth) == ('SparseDepthMetric', far)
    metric = METRICS.build(cfg.test_evaluator)
    assert (metric.protocol.crop, metric.protocol.average) == (crop, average)
    assert metric.distances == ((0, 2, 4, 10) if far == 10 else (0, 20, 40, 80))
    assert (cfg.visualizer.type, cfg.visualizer.max_depth) == ('DepthPanelVisualizer', far)
    assert cfg.train_cfg.max_iters == (250 if leaf.startswith('demo') else 80000)
    assert not {'max_depth', 'dataset', 'resize'} & set(cfg)


@pytest.mark.parametrize('leaf', LEAVES)
def test_axes_reach_the_run(leaf):
    full = load(leaf).train_cfg.max_iters
    for fraction, iterations in FRACTIONS.items():
        cfg = load(leaf, fraction=fraction, seed='3', regime='finetune', backbone='vit22b_tiny', data_root='/d')
        assert cfg.train_dataloader.dataset.dataset.fraction == fraction
        assert cfg.train_dataloader.dataset.dataset.seed == cfg.randomness.seed == 3
        assert cfg.train_cfg.max_iters == full * iterations // 80000
        assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters
        assert cfg.model.backbone.arch == 'tiny'
        assert cfg.model.backbone.frozen is False
        assert cfg.optim_wrapper.paramwise_cfg.decay_rate == 0.95
        assert cfg.val_dataloader.dataset.data_root == '/d'
        rates = warm_up_rates(json.dumps(cfg.param_scheduler))
        assert rates[0] == pytest.approx(1e-3)
        assert max(rates) == pytest.approx(1.0, abs=0.001), 'the warm-up must end at the full learning rate'


def test_decoders_are_lean_unless_the_published_size_is_asked_for():
    lean, published = load('ade20k/upernet.py'), load('ade20k/upernet.py', decoder_size='published')
    assert lean.to_dict() == load('ade20k/upernet.py', decoder_size='lean').to_dict()
    assert (published.model.neck.out_channels, published.model.decode_head.channels) == (512, 512)
    assert published.model.neck.scales == (4, 2, 1, 0.5)  # BEiT, arXiv 2106.08254
    for cfg in (lean, published):
        with torch.device('meta'):
            head = MODELS.build(dict(cfg.model.decode_head))
            neck = MODELS.build(dict(cfg.model.neck))
        x = [torch.empty(1, 768, 36, 36, device='meta')] * 4
        assert head(neck(tuple(x))).shape[1] == 150


@cache
def warm_up_rates(schedule):
    """The learning rate at each iteration until the warm-up has ended, of a base of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    parts = json.loads(schedule)
    schedulers = [PARAM_SCHEDULERS.build(dict(part, optimizer=optimizer)) for part in parts]
    rates = []
    for _ in range(parts[-1]['begin'] + 2):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates


@pytest.mark.parametrize('leaf', ['ade20k/upernet.py', 'pascal_voc12/linear_aug.py', 'waymo/dpt.py'])
def test_the_dumped_config_is_the_same_run(leaf, tmp_path):
    cfg = load(leaf, {'model.backbone.with_cp': True}, backbone='vit22b_small', fraction='1/8', seed='5')
    cfg.dump(tmp_path / 'dumped.py')
    again = Config.fromfile(tmp_path / 'dumped.py')
    assert again.to_dict() == cfg.to_dict()
    assert not {'backbone', 'embed_dims', 'num_classes', 'fraction'} & set(again)


@pytest.mark.parametrize(
    ('axis', 'value', 'known'),
    [
        ('backbone', 'vit23b', 'vit22b, vit22b_base, vit22b_large, vit22b_small, vit22b_tiny'),
        ('regime', 'thawed', 'finetune, frozen, scratch'),
        ('fraction', '1/3', '1, 1/16, 1/2, 1/4, 1/8'),
    ],
)
def test_an_unknown_axis_value_lists_the_known(axis, value, known):
    with pytest.raises(ConfigError) as error:
        load('ade20k/linear.py', **{axis: value})
    assert f"unknown {axis} '{value}'" in str(error.value)
    assert set(known.split(', ')) <= set(str(error.value).split('known: ')[1].split(', '))


def test_other_bad_input_is_named(tmp_path):
    with pytest.raises(ConfigError, match='--seed -1'):
        load('ade20k/linear.py', seed='-1')
    with pytest.raises(ConfigError, match=r'absent\.py: no such config'):
        load('absent.py')
    load('ade20k/linear.py').dump(tmp_path / 'alone.py')
    with pytest.raises(ConfigError, match="no axis 'backbone'"):
        load_config(tmp_path / 'alone.py', dict(backbone='vit22b_tiny'))
    with pytest.raises(ConfigError, match='num_classes: it is an ingredient'):
        load('ade20k/linear.py', {'num_classes': 3})
    with pytest.raises(ConfigError, match='optim_wraper.lr: no run reads it; did you mean optim_wrapper'):
        load('ade20k/linear.py', {'optim_wraper.lr': 3})


def test_missing_data_are_named(ade_root):
    loaders = ('train_dataloader', 'val_dataloader')
    check_data(load('ade20k/linear.py', data_root=str(ade_root)), loaders)
    with pytest.raises(ConfigError, match=r'needs /absent, which does not exist.*--data-root'):
        check_data(load('ade20k/linear.py', data_root='/absent'), loaders)
    with pytest.raises(ConfigError, match=r'train_dataloader \(PascalVOCDataset\) needs .*JPEGImages'):
        check_data(load('pascal_voc12/linear_aug.py', data_root=str(ade_root)), loaders)


def test_work_dirs_of_different_runs_differ():
    names = {
        default_work_dir(CONFIGS / leaf, dict(backbone=b, fraction=f, seed=s))
        for leaf in LEAVES
        for b in (None, 'vit22b')
        for f in (None, '1/2')
        for s in (None, '1')
    }
    assert len(names) == 8 * len(LEAVES)
    assert all(name.count('/') == 1 for name in names)
