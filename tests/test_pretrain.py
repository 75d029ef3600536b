"""Pretraining: loss, pooling, schedule, weight decay, data, scores; a run from images to the weights of a backbone."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPO, write_image
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.structures import BaseDataElement, LabelData
from mmseg.registry import DATASETS, MODELS
from torch import nn

from vit22b_dense import ViT22B
from vit22b_dense.datasets import DataError, LabelledImages
from vit22b_dense.demo import labelled
from vit22b_dense.demo.labelled import LabelledSet
from vit22b_dense.demo.made_set import seeded_street
from vit22b_dense.demo.parts import Label
from vit22b_dense.engine.config import load_config
from vit22b_dense.engine.features.made import FeatureError, made_by
from vit22b_dense.engine.predict import predictor_of
from vit22b_dense.engine.record import score_and_record
from vit22b_dense.engine.run import build_training
from vit22b_dense.engine.schedule import ReciprocalSqrtLR, pretraining_schedule
from vit22b_dense.errors import UserError
from vit22b_dense.evaluation.label_metric import MultiLabelMetric, average_precision
from vit22b_dense.models import AttentionPool, MultiLabelHead

LEAVES = ('pretrain/folder.py', 'pretrain/toy_street.py')
SIZES = dict(embed_dims=64, num_layers=2, num_heads=2, mlp_dims=32)
SAMPLE = np.zeros((8, 8, 3), np.uint8)


def load(leaf, overrides=None, **axes):
    return load_config(REPO / 'configs' / leaf, dict(backbone='vit22b_tiny', regime='pretrain', **axes), overrides)


def test_the_loss_is_the_sigmoid_cross_entropy():
    torch.manual_seed(0)
    head = MultiLabelHead(6, 4)
    features = torch.randn(3, 6)
    assert torch.sigmoid(head(features)).sum(1).tolist() == pytest.approx([1.0] * 3)  # as it starts
    nn.init.normal_(head.linear.weight)
    truth = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    samples = [BaseDataElement(gt_label=LabelData(score=row)) for row in truth]
    expected = 0.0
    for logits, row in zip(head(features).tolist(), truth.tolist(), strict=True):
        for logit, shown in zip(logits, row, strict=True):
            p = 1 / (1 + math.exp(-logit))
            expected -= math.log(p if shown else 1 - p) / 3
    assert head.loss(features, samples)['loss_label'].item() == pytest.approx(expected, rel=1e-5)
    scores = [sample.pred_label.score for sample in head.predict(features, samples)]
    torch.testing.assert_close(torch.stack(scores), head(features).sigmoid())


def test_the_pooling_is_attention_of_a_probe_written_out():
    torch.manual_seed(0)
    pool = AttentionPool(12, head_dims=4)
    for param in pool.parameters():
        nn.init.normal_(param, std=0.5)
    maps = torch.randn(2, 12, 3, 2)
    tokens, weights = maps.flatten(2).transpose(1, 2), pool.attention
    wq, wk, wv = weights.in_proj_weight.chunk(3)
    bq, bk, bv = weights.in_proj_bias.chunk(3)
    heads = []
    for h in range(3):
        rows = slice(4 * h, 4 * h + 4)
        q = pool.probe_token[0] @ wq[rows].T + bq[rows]
        k, v = tokens @ wk[rows].T + bk[rows], tokens @ wv[rows].T + bv[rows]
        heads.append(torch.softmax(q @ k.transpose(1, 2) / 2, dim=-1) @ v)
    y = torch.cat(heads, dim=-1) @ weights.out_proj.weight.T + weights.out_proj.bias
    first, _, last = pool.mlp
    hidden = nn.functional.gelu(
        nn.functional.layer_norm(y, (12,), pool.norm.weight, pool.norm.bias, 1e-6) @ first.weight.T + first.bias
    )
    expected = (y + hidden @ last.weight.T + last.bias)[:, 0]
    torch.testing.assert_close(pool((maps * 0, maps)), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match='head_dims=5 must divide in_channels=12'):
        AttentionPool(12, head_dims=5)


def test_the_rate_warms_up_falls_with_the_root_and_cools_down():
    total, warmup, cooldown = 354, 20, 60
    train_cfg, parts = pretraining_schedule(total)
    assert train_cfg['max_iters'] == total
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedulers = [PARAM_SCHEDULERS.build(dict(part, optimizer=optimizer)) for part in parts]
    for step in range(total):
        rise = min(1.0, 1e-3 + (1 - 1e-3) * step / (warmup - 1))
        fall = min(1.0, 1 - (step - (total - cooldown)) / (cooldown - 1))
        expected = 2.0 * rise * math.sqrt(warmup / max(step, warmup)) * fall
        assert optimizer.param_groups[0]['lr'] == pytest.approx(expected, rel=1e-6, abs=1e-9), step
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    with pytest.raises(ValueError, match='timescale=0'):
        ReciprocalSqrtLR(optimizer, timescale=0)


def test_the_head_decays_by_3_and_the_body_by_003():
    cfg = load('pretrain/toy_street.py')
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    of = {id(p): group for group in optimizer.param_groups for p in group['params']}
    assert len(of) == len(list(model.parameters()))
    decays = {}
    for name, param in model.named_parameters():
        free = param.ndim == 1 or name.endswith(('pos_embed', 'up_bias', 'probe_token'))
        expected = 0.0 if free else 3.0 if name == 'head.linear.weight' else 0.03
        assert of[id(param)]['weight_decay'] == expected, name
        decays[expected] = decays.get(expected, 0) + 1
    assert decays[3.0] == 1
    assert decays[0.03] == 1 + 2 * 12 + 4  # patch embedding, blocks, pooling


@pytest.mark.parametrize('leaf', LEAVES)
def test_every_config_builds_on_the_largest_backbone(leaf):
    cfg = load_config(REPO / 'configs' / leaf, dict(backbone='vit22b', regime='finetune'))
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    classes = cfg.val_dataloader.dataset.metainfo['classes']
    assert model(torch.zeros(2, 3, 56, 42, device='meta')).shape == (2, len(classes))
    train = cfg.train_dataloader.dataset.dataset.dataset
    assert (train.split, cfg.val_dataloader.dataset.split) == ('train', 'val')
    assert train.metainfo['classes'] == classes
    assert 'visualization' not in cfg.default_hooks


def test_tools_for_maps_refuse_image_labels():
    cfg = load('pretrain/toy_street.py', {'model.backbone.frozen': True})
    with pytest.raises(UserError, match='ImageClassifier predicts no map'):
        predictor_of(cfg, 'iter_1.pth')
    with pytest.raises(FeatureError, match='features are stored for dense decoders'):
        made_by(cfg)


def made_folders(root):
    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            for i in range(2):
                colour = np.array([250, 0, 0] if name == 'cat' else [0, 0, 250], np.uint8)
                write_image(root / f'{split}/{name}/{i}.{"png" if i else "JPG"}', np.tile(colour, (56, 60, 1)))
    return root


def test_a_folder_is_a_class(tmp_path):
    data = LabelledImages(dict(classes=['cat', 'dog']), str(made_folders(tmp_path)), split='train')
    found = [(data[i]['img_path'].removeprefix(f'{tmp_path}/train/'), data[i]['labels']) for i in range(len(data))]
    assert found == [('cat/0.JPG', [0]), ('cat/1.png', [0]), ('dog/0.JPG', [1]), ('dog/1.png', [1])]
    with pytest.raises(DataError, match=r'1 of its classes are not among the 1 of the config \(dog\)'):
        LabelledImages(dict(classes=['cat']), str(tmp_path), split='train')
    with pytest.raises(DataError, match='give metainfo'):
        LabelledImages()
    write_image(tmp_path / 'train/stray.png', SAMPLE)
    with pytest.raises(DataError, match=r'1 of 5 images are in no folder of a class \(stray.png\)'):
        LabelledImages(dict(classes=['cat', 'dog']), str(tmp_path), split='train')


def test_a_text_file_has_any_number_of_classes(tmp_path):
    for name, text in (('a', 'traffic light\ncat\n\n'), ('b/c', '')):
        write_image(tmp_path / f'images/train/{name}.png', SAMPLE)
        (tmp_path / f'labels/train/{name}.txt').parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f'labels/train/{name}.txt').write_text(text)
    options = dict(
        type='LabelledImages', data_root=str(tmp_path), split='train',
        data_prefix=dict(img_path='images', label_path='labels'),
        metainfo=dict(classes=['cat', 'dog', 'traffic light']),
        pipeline=[dict(type='LoadImage'), dict(type='PackLabelInputs', num_classes=3)],
    )  # fmt: skip
    first, second = DATASETS.build(options)
    assert first['data_samples'].gt_label.score.tolist() == [1, 0, 1]
    assert second['data_samples'].gt_label.score.tolist() == [0, 0, 0]
    assert second['inputs'].shape == (3, 8, 8)
    (tmp_path / 'labels/train/a.txt').unlink()
    with pytest.raises(DataError, match=r'labels/train: 1 of 2 images have no text file here \(a.txt\)'):
        DATASETS.build(options)


def test_average_precision_against_its_definition():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 8, 30) / 8, rng.random(30) < 0.3
    above = scores[None] >= scores[:, None]
    precisions = [truth[row].mean() for row, shown in zip(above, truth, strict=True) if shown]
    assert average_precision(truth, scores) == pytest.approx(np.mean(precisions))
    assert average_precision(truth, np.ones(30)) == pytest.approx(truth.mean())
    assert average_precision(truth, truth.astype(float)) == 1


def test_scores_of_labels():
    truth = [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]]
    scores = [[0.9, 0.2, 0.1], [0.3, 0.8, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.1]]
    metric = MultiLabelMetric()
    metric.dataset_meta = dict(classes=('a', 'b', 'c'))
    rows = zip(truth, scores, strict=True)
    metric.process(
        {}, [dict(gt_label=dict(score=torch.tensor(t)), pred_label=dict(score=torch.tensor(s))) for t, s in rows]
    )
    found = metric.evaluate(4)
    assert found == {
        'AP/a': pytest.approx(100 * (1 + 2 / 3) / 2, abs=0.01), 'AP/b': 100.0,
        'mAP': pytest.approx(100 * (5 / 6 + 1) / 2, abs=0.01), 'precision@1': pytest.approx(66.67),
        'majority/mAP': 50.0, 'majority/precision@1': pytest.approx(66.67),
    }  # fmt: skip


def test_a_toy_street_of_labels_says_what_its_crops_show(tmp_path, monkeypatch):
    seen, sizes = [], dict(num_train=1, num_val=1, size=(56, 84), crop=28)

    def watched(*entropy):
        seen.append(entropy)
        return seeded_street(*entropy)

    monkeypatch.setattr(labelled, 'seeded_street', watched)
    LabelledSet(tmp_path / 'a', **sizes).write()
    LabelledSet(tmp_path / 'b', **sizes).write()
    assert set(seen) == {(0, 2, 1), (0, 3, 1)}  # AdeSet's are (0, 0, 1) and (0, 1, 1)
    files = sorted(path.relative_to(tmp_path / 'a') for path in (tmp_path / 'a').rglob('*.*'))
    assert len(files) == 1 + 2 * 2 * 8
    assert all((tmp_path / 'a' / file).read_bytes() == (tmp_path / 'b' / file).read_bytes() for file in files)
    cfg = load('pretrain/toy_street.py', data_root=str(tmp_path / 'a'))
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 8

    labels = np.full((56, 84), Label.ROAD)
    labels[:6], labels[9:14], labels[20:30] = Label.SKY, Label.CAR, Label.OTHER  # 10.7 %, 8.9 % and 17.9 % of a crop
    picture = SimpleNamespace(image=np.zeros((56, 84, 3), np.uint8), label=labels)
    monkeypatch.setattr(labelled, 'render', lambda *_: picture)
    LabelledSet(tmp_path / 'c', **dict(sizes, crop=56)).write()
    assert {path.read_text() for path in (tmp_path / 'c/labels').rglob('*.txt')} == {'road\nsky\n'}
    with pytest.raises(UserError, match='crop=57 must be at least 1 and at most 56'):
        LabelledSet(tmp_path / 'd', **dict(sizes, crop=57))


def test_a_run_from_images_to_the_weights_of_a_dense_model(tmp_path):
    overrides = {
        'train_cfg.max_iters': 6, 'train_cfg.val_interval': 6, 'train_dataloader.batch_size': 4,
        **{f'{name}_dataloader.{key}': value for name in ('train', 'val', 'test')
           for key, value in (('num_workers', 0), ('persistent_workers', False))},
        'default_hooks.logger.interval': 1, 'param_scheduler.0.end': 2, 'param_scheduler.1.begin': 2,
        'param_scheduler.2.begin': 5, 'optim_wrapper.optimizer.lr': 3e-3,
    }  # fmt: skip
    cfg = load('pretrain/folder.py', overrides, data_root=str(made_folders(tmp_path / 'data')), seed='0')
    for pipeline in (cfg.train_dataloader.dataset.dataset.dataset.pipeline, cfg.test_dataloader.dataset.pipeline):
        for step in pipeline:
            step.update({key: (56, 56) for key in ('scale', 'crop_size') if key in step})
    cfg.model.backbone.arch = SIZES
    cfg.model.neck.in_channels = cfg.model.head.in_channels = 64
    cfg.visualizer.name = str(tmp_path)  # mmengine keeps one of a name for the whole process
    cfg.work_dir, cfg.resume, cfg.launcher = str(tmp_path / 'run'), False, 'none'
    build_training(cfg).train()
    log = next((tmp_path / 'run').glob('*/vis_data/2*.json')).read_text().splitlines()
    losses = [line['loss_label'] for line in map(json.loads, log) if 'loss_label' in line]
    assert losses[0] > losses[-1]

    checkpoint = tmp_path / 'run/iter_6.pth'
    score_and_record(cfg, str(checkpoint), dict(config='pretrain/folder.py'))
    scores = json.loads((tmp_path / 'run/scores.json').read_text())
    assert scores['images'] == 4
    assert scores['scores']['mAP'] == 100

    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    backbone = ViT22B(SIZES, init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint)))
    backbone.init_weights()
    assert all(torch.equal(value, weights[f'backbone.{name}']) for name, value in backbone.state_dict().items())
