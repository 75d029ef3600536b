"""One count of label and prediction for all metrics, against mmseg's own."""

import copy

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmseg.evaluation import IoUMetric
from PIL import Image

from vit22b_dense.evaluation import CountedIoUMetric, label_counts
from vit22b_dense.evaluation.companions import companions

META = dict(classes=tuple('abcde'))


def samples(values, count=3):
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor(values)[torch.randint(len(values), (count, 1, 9, 7), generator=generator)]
    preds = torch.randint(4, labels.shape, generator=generator)
    return [
        dict(gt_sem_seg=dict(data=label), pred_sem_seg=dict(data=pred), img_path=f'{i}.png')
        for i, (label, pred) in enumerate(zip(labels, preds, strict=True))
    ]


@pytest.mark.parametrize('ignored', [255, 3])
@pytest.mark.parametrize('dtype', [torch.int64, torch.uint8])
def test_scores_and_files_are_those_of_mmseg(tmp_path, ignored, dtype):
    found = {}
    for kind in (IoUMetric, CountedIoUMetric):
        folder = tmp_path / kind.__name__
        metric = kind(
            ignore_index=ignored, iou_metrics=['mIoU', 'mDice', 'mFscore'], nan_to_num=0, output_dir=str(folder)
        )
        metric.dataset_meta = META
        for sample in samples([0, 1, 2, 3, 200, 255]):  # 200 is no class, and yet what is predicted there counts
            sample['gt_sem_seg']['data'] = sample['gt_sem_seg']['data'].to(dtype)
            metric.process({}, [sample])
        found[kind] = (
            metric.compute_metrics(metric.results),
            [np.array(Image.open(f)) for f in sorted(folder.iterdir())],
        )
    (theirs, pictures), (ours, again) = found.values()
    assert ours == pytest.approx(theirs)
    assert len(ours) == 7
    assert np.array_equal(pictures, again)
    assert len(again) == 3


def test_nothing_is_counted_where_only_files_are_written(tmp_path):
    metric = CountedIoUMetric(format_only=True, output_dir=str(tmp_path))
    metric.dataset_meta = META
    (sample,) = samples([0], count=1)
    del sample['gt_sem_seg']
    metric.process({}, [sample])
    assert [file.name for file in tmp_path.iterdir()] == ['0.png']
    assert not metric.results


@pytest.mark.parametrize('kind', ['CountedIoUMetric', 'IoUMetric'])
def test_an_image_is_counted_once_for_all_metrics(kind, monkeypatch):
    calls, count = [], np.bincount
    monkeypatch.setattr(label_counts.np, 'bincount', lambda *args, **kw: calls.append(args) or count(*args, **kw))
    evaluator = Evaluator([dict(type=kind), *companions([dict(type=kind)])])
    evaluator.dataset_meta = META
    evaluator.process(copy.deepcopy(samples([0, 1, 255])))
    scores = evaluator.evaluate(3)
    assert len(calls) == 3
    assert {'mIoU', 'IoU/a', 'majority/mIoU'} <= scores.keys()
