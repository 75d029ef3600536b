"""Scores of single images and single classes against brute force."""

import numpy as np
import pytest
import torch

from vit22b_dense.evaluation import ImageDepthMetric, ImageIoUMetric

META = dict(classes=('sky', 'road', 'car', 'boat'))


def seg_sample(path, pred, label):
    return dict(
        img_path=path,
        pred_sem_seg=dict(data=torch.tensor(pred)[None]),
        gt_sem_seg=dict(data=torch.tensor(label)[None]),
    )


def test_iou_of_classes_and_images_equals_sets_of_pixels():
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 3, (6, 7)), rng.choice([0, 1, 2, 255], (6, 7))) for _ in range(5)]
    metric = ImageIoUMetric()
    metric.dataset_meta = META
    for n, (pred, label) in enumerate(pairs):
        metric.process({}, [seg_sample(f'{n}.jpg', pred, label)])
    scores = metric.evaluate(5)

    def iou(k, some):
        pixels = [(n, *at) for n, (_, label) in enumerate(some) for at in np.argwhere(label != 255)]
        predicted = {(n, y, x) for n, y, x in pixels if some[n][0][y, x] == k}
        true = {(n, y, x) for n, y, x in pixels if some[n][1][y, x] == k}
        return 100 * len(predicted & true) / len(predicted | true)

    classes = {name: value for name, value in scores.items() if name.startswith('IoU/')}
    assert classes == pytest.approx(
        {f'IoU/{name}': iou(k, pairs) for k, name in enumerate(META['classes'][:3])}, abs=0.01
    )
    assert scores.keys() - classes.keys() == {'majority/mIoU', 'majority/aAcc'}
    assert [path for path, _ in metric.images] == [f'{n}.jpg' for n in range(5)]
    for (_, score), pair in zip(metric.images, pairs, strict=True):
        assert score == pytest.approx(np.mean([iou(k, [pair]) for k in range(3)]))


def test_an_image_without_labels_has_no_score_and_no_rank():
    metric = ImageIoUMetric()
    metric.dataset_meta = META
    empty = np.full((2, 2), 255)
    for n, label in enumerate((empty, np.zeros((2, 2), int), np.array([[0, 1], [1, 1]]))):
        metric.process({}, [seg_sample(f'{n}.jpg', np.zeros((2, 2), int), label)])
    metric.evaluate(3)
    assert np.isnan(metric.images[0][1])
    assert metric.ranked() == {'best': 1, 'worst': 2}


@pytest.mark.parametrize(
    ('count', 'ranks'),
    [(0, {}), (1, {'best': 0}), (2, {'best': 1, 'worst': 0}), (5, {'best': 4, 'median': 2, 'worst': 0})],
)
def test_ranks_are_of_different_images(count, ranks):
    metric = ImageIoUMetric()
    metric.images = [(f'{n}.jpg', float(n)) for n in range(count)]
    assert metric.ranked() == ranks


def test_depth_images_are_ranked_by_relative_error_within_the_protocol():
    metric = ImageDepthMetric(max_depth=50.0)
    gt = np.array([[10.0, 0.0], [20.0, 80.0]], np.float32)
    for n, factor in enumerate((1.5, 1.1, 1.3)):
        pred = np.where(gt == 80, 1, gt * factor).astype(np.float32)
        sample = dict(img_path=f'{n}.jpg')
        sample |= {k: dict(data=torch.tensor(v)[None]) for k, v in (('pred_depth_map', pred), ('gt_depth_map', gt))}
        metric.process({}, [sample])
    metric.process({}, [dict(img_path='3.jpg', pred_depth_map=dict(data=torch.ones(1, 2, 2)))])
    assert metric.evaluate(4) == {}
    assert [score for _, score in metric.images[:3]] == pytest.approx([0.5, 0.1, 0.3], abs=1e-6)
    assert np.isnan(metric.images[3][1])
    assert metric.ranked() == {'best': 1, 'median': 2, 'worst': 0}
