import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample

from vit22b_dense.evaluation import ImageIoUMetric, SegPanelVisualizer
from vit22b_dense.evaluation.panels import compose, segmentation_panel

META = dict(classes=('sky', 'road', 'car'), palette=[[10, 20, 200], [90, 140, 30], [200, 0, 0]])


def test_majority_equals_the_iou_of_a_constant_answer():
    torch.manual_seed(0)
    labels = [torch.tensor([0, 1, 1, 255])[torch.randint(0, 4, (1, 9, 7))] for _ in range(5)]
    ours, theirs = ImageIoUMetric(), IoUMetric(iou_metrics=['mIoU'])
    for metric in (ours, theirs):
        metric.dataset_meta = META
        for n, label in enumerate(labels):
            sample = dict(gt_sem_seg=dict(data=label), pred_sem_seg=dict(data=torch.ones_like(label)))
            metric.process({}, [sample | dict(img_path=f'{n}.jpg')])
    reference, found = theirs.compute_metrics(theirs.results), ours.compute_metrics(ours.results)
    for name in ('mIoU', 'aAcc'):
        assert found[f'majority/{name}'] == pytest.approx(reference[name], abs=0.01)


def test_panel_shows_image_label_and_prediction_in_class_colours():
    image = np.full((40, 60, 3), 100, np.uint8)
    label, prediction = np.zeros((40, 60), np.uint8), np.full((40, 60), 2, np.uint8)
    label[:20] = 255
    panel = segmentation_panel(image, prediction, label, **META)
    top, x = 30, 8
    assert tuple(panel[top + 30, x + 10]) == (100, 100, 100)
    assert tuple(panel[top + 30, x + 68 + 10]) == tuple(round(0.8 * c + 20) for c in (10, 20, 200))
    assert tuple(panel[top + 5, x + 68 + 10]) == (0, 0, 0)
    assert tuple(panel[top + 30, x + 2 * 68 + 10]) == tuple(int(0.8 * c + 20) for c in (200, 0, 0))
    assert panel.shape[1] == 3 * 60 + 4 * 8
    legend = panel[top + 40 + 8 :]
    assert (legend == [200, 0, 0]).all(-1).any()
    assert not (legend == [90, 140, 30]).all(-1).any()  # road does not occur


def test_the_legend_has_the_order_of_the_classes_in_every_picture():
    image, label = np.zeros((40, 200, 3), np.uint8), np.zeros((40, 200), np.uint8)
    label[:, :1], label[:, 1:3] = 1, 2

    def places(labels):
        legend = segmentation_panel(image, None, labels, **META)[-30:]
        return [int(np.argwhere((legend == colour).all(-1))[:, 1].min()) for colour in META['palette']]

    assert places(label) == places(2 - label) == sorted(places(label))


def test_a_long_legend_wraps():
    one = compose([('image', np.zeros((10, 200, 3), np.uint8))], [((1, 2, 3), 'name')])
    many = compose([('image', np.zeros((10, 200, 3), np.uint8))], [((1, 2, 3), 'name')] * 9)
    assert many.shape[0] > one.shape[0]
    assert many.shape[1] == one.shape[1]


def test_visualizer_writes_what_mmseg_hands_it(tmp_path):
    visualizer = SegPanelVisualizer()
    visualizer.dataset_meta = META
    sample = SegDataSample(pred_sem_seg=PixelData(data=torch.ones(1, 8, 9, dtype=torch.long)))
    visualizer.add_datasample('x', np.zeros((8, 9, 3), np.uint8), sample, out_file=tmp_path / 'x.png')
    picture = cv2.imread(tmp_path / 'x.png')[..., ::-1]
    assert len(np.unique(picture)) > 1
    np.testing.assert_array_equal(visualizer.get_image(), picture)  # which mmseg's inferencer asks for
    visualizer.set_image(picture[:5])
    np.testing.assert_array_equal(visualizer.get_image(), picture[:5])
