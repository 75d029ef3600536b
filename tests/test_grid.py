"""What the token grid allows, against pooling and resizing by PyTorch, and on real labels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmseg.evaluation import IoUMetric
from PIL import Image

from vit22b_dense.evaluation import GridDepthMetric, GridIoUMetric
from vit22b_dense.evaluation import grid as grids
from vit22b_dense.evaluation.companions import companions, summary
from vit22b_dense.evaluation.depth_metric import pixel_sums, scores_of
from vit22b_dense.evaluation.grid import _cells, depth_through_grid, through_grid
from vit22b_dense.evaluation.report import group_tables
from vit22b_dense.fewshot.table import CellResult, seeds_note
from vit22b_dense.strips import Mosaic, Side, labels_of

META = dict(classes=('sky', 'road', 'car', 'boat', 'pole'))


def pooled(maps, grid):
    """Means of ``(K, H, W)`` over the cells of a grid that divides it, brought back."""
    size = maps.shape[1:]
    cells = F.avg_pool2d(maps[None], (size[0] // grid[0], size[1] // grid[1]))
    return F.interpolate(cells, size=tuple(size), mode='bilinear', align_corners=False)[0]


def metric_of(kind, **options):
    metric = kind(**options)
    metric.dataset_meta, metric.patch_size = META, 14
    return metric


def test_labels_come_back_as_the_largest_share_of_each_class():
    torch.manual_seed(0)
    ours, theirs = metric_of(GridIoUMetric), IoUMetric(iou_metrics=['mIoU'])
    theirs.dataset_meta = META
    for _ in range(3):
        # twice the size of the input of 56x70 px: a grid of 4x5 tokens; the last class is in no label
        label = torch.tensor([0, 1, 2, 3, 255])[torch.randint(0, 5, (28, 35))].repeat_interleave(4, 0)
        label = label.repeat_interleave(4, 1)
        one_hot = F.one_hot(label.where(label != 255, 5), 6)[..., :5].permute(2, 0, 1).float()
        shares = F.avg_pool2d(one_hot[None], 28) / F.avg_pool2d((label != 255).float()[None, None], 28)
        expected = F.interpolate(shares, size=(112, 140), mode='bilinear', align_corners=False)[0].argmax(0)
        back = torch.from_numpy(through_grid(label.numpy(), (4, 5)))
        assert (back == expected)[label != 255].float().mean() > 0.999
        sample = dict(gt_sem_seg=dict(data=label[None]), img_shape=(56, 70), img_path='')
        ours.process({}, [sample])
        theirs.process({}, [sample | dict(pred_sem_seg=dict(data=expected[None]))])
    reference, found = theirs.compute_metrics(theirs.results), ours.evaluate(3)
    assert found['grid/mIoU'] == pytest.approx(reference['mIoU'], abs=0.3)
    assert found['grid/aAcc'] == pytest.approx(reference['aAcc'], abs=0.3)
    assert {name for name in found if '/IoU/' in name} == {f'grid/IoU/{name}' for name in META['classes'][:4]}


def test_what_fits_the_grid_is_perfect_and_a_thin_pole_is_lost():
    label = torch.zeros(140, 140, dtype=torch.int64)
    label[:, 70:] = 1
    metric = metric_of(GridIoUMetric)
    metric.process({}, [dict(gt_sem_seg=dict(data=label[None]), img_shape=(140, 140))])
    assert metric.evaluate(1) == {'grid/mIoU': 100, 'grid/aAcc': 100, 'grid/IoU/sky': 100, 'grid/IoU/road': 100}
    label[:, 20:22] = 4
    metric.process({}, [dict(gt_sem_seg=dict(data=label[None]), img_shape=(140, 140))])
    assert metric.evaluate(1)['grid/IoU/pole'] == 0
    ignored = np.full((5, 7), 255)
    assert np.array_equal(through_grid(ignored, (1, 1)), ignored)


@pytest.mark.parametrize(
    ('size', 'grid'), [((61, 83), (5, 6)), ((90, 47), (7, 4)), ((9, 8), (1, 1)), ((3, 8), (5, 2))]
)
def test_it_is_what_maps_of_all_classes_give(size, grid, monkeypatch):
    rng = np.random.default_rng(0)
    label = np.kron(rng.choice([*range(20), 255], (30, 30)), np.ones((4, 4), np.int64))[: size[0], : size[1]]
    cells = _cells(size, grid)
    shares = np.array([[np.bincount(label[cells == c], minlength=256)[:20]] for c in range(grid[0] * grid[1])])
    shares = torch.from_numpy(shares / shares.sum(-1, keepdims=True).clip(1)).float().view(1, *grid, 20)
    best, second = Mosaic(*map(Side, size, size), lambda row: shares).strip(0, size[0]).topk(2).values.unbind(-1)
    expected = labels_of([Mosaic(*map(Side, size, size), lambda row: shares)]).numpy()
    monkeypatch.setattr(grids, 'STEP_NUMBERS', 3000)
    clear = (label != 255) & ((best - second) > 1e-6).numpy()
    assert clear.mean() > 0.9
    assert np.array_equal(through_grid(label, grid)[clear], expected[clear])


@pytest.mark.parametrize('average', ['pixel', 'image'])
def test_depth_comes_back_as_the_mean_of_its_logarithm(average):
    torch.manual_seed(0)
    metric, sums = metric_of(GridDepthMetric, average=average), []
    for _ in range(2):
        depth = 2 + 70 * torch.rand(1, 56, 70).square()
        back = pooled(torch.log1p(depth.double()), (4, 5)).expm1()
        sums.append(pixel_sums(back.flatten().numpy(), depth.double().flatten().numpy()))
        metric.process({}, [dict(gt_depth_map=dict(data=depth), img_shape=(56, 70))])
    found = metric.evaluate(2)
    each = [scores_of(one) for one in sums]
    expected = scores_of(sum(sums)) if average == 'pixel' else {n: np.mean([e[n] for e in each]) for n in each[0]}
    assert found == pytest.approx({f'grid/{name}': value for name, value in expected.items()}, rel=1e-5)


def test_tokens_without_depth_take_no_part():
    depth = np.zeros((28, 28))
    depth[:14, :14], depth[20, 3] = 9.0, 30.0
    index = np.flatnonzero(depth)
    back = depth_through_grid(depth.flat[index], index, (28, 28), (2, 2))
    assert back[0] == pytest.approx(9)  # nearest to the corner, and only tokens that have depth count
    rows = np.divmod(index, 28)[0]
    share = np.clip((rows + 0.5) / 14 - 0.5, 0, 1)
    np.testing.assert_allclose(np.log1p(back), (1 - share) * np.log1p(9) + share * np.log1p(30))


def test_without_a_patch_size_there_are_no_scores():
    for kind in (GridIoUMetric, GridDepthMetric):
        metric = metric_of(kind)
        metric.patch_size = None
        metric.process({}, [dict()])
        assert metric.evaluate(1) == {}


def test_it_goes_with_the_configs_metrics_and_is_in_the_summary():
    kinds = [metric['type'] for metric in companions([dict(type='IoUMetric')])]
    assert 'GridIoUMetric' in kinds
    depth = companions([dict(type='SparseDepthMetric', crop='garg', average='image', max_depth=50)])
    assert dict(type='GridDepthMetric', crop='garg', average='image', max_depth=50) in depth
    assert summary({'mIoU': 50, 'majority/mIoU': 4.5, 'grid/mIoU': 77.4}) == (
        'mIoU 50.00 (majority class 4.50, labels at the token grid 77.40)'
    )
    scores = {'abs_rel': 0.2, 'pixel/abs_rel': 0.2, 'mean_depth/abs_rel': 0.9, 'grid/abs_rel': 0.05}
    brackets = 'the mean depth and the true depth at the token grid'
    assert summary(scores) == f'abs_rel 0.200 (0.900, 0.050); in brackets {brackets}; over all pixels'


def test_tables_have_it_beside_the_scores():
    fine, coarse = ({'IoU/pole': 9.0, 'grid/IoU/pole': grid} for grid in (40.0, 1.4))
    (same,) = group_tables('', {'a': [fine], 'b': [fine, fine]})
    assert same.rows == [['class, IoU (%)', 'a', 'b', 'token grid'], ['pole', '9.0', '9.0', '40.0']]
    (different,) = group_tables('', {'a': [fine], 'b': [coarse]})
    assert different.rows[0] == ['class, IoU (%)', 'a', 'b', 'a, token grid', 'b, token grid']
    assert different.rows[1][3:] == ['40.0', '1.4']
    cells = [
        CellResult(name, '1', 0, 6, 25, 'finished', 'Set', 'ab', '', '', scores={'mIoU': 20.0, 'grid/mIoU': grid})
        for name, grid in (('patch14', 77.4), ('patch16', 75.0))
    ]
    assert 'at the token grid: 77.40.' in seeds_note(cells[:1])
    assert 'at the token grid: 77.40 (patch14), 75.00 (patch16).' in seeds_note(cells)


def test_real_labels(shared_data):
    metric = metric_of(GridIoUMetric)
    metric.dataset_meta = dict(classes=[str(i) for i in range(11)])
    for path in sorted((shared_data('camvid_mini') / 'annotations/val').glob('*.png')):
        label = torch.from_numpy(np.array(Image.open(path)).astype(np.int64))
        metric.process({}, [dict(gt_sem_seg=dict(data=label[None]), img_shape=label.shape)])
    found = metric.evaluate(len(metric.results))
    assert 77 < found['grid/mIoU'] < 78.5
    assert found['grid/IoU/2'] < 4  # poles
