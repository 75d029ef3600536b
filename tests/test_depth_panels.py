"""Pictures of depth: the colours mean what their bars say."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from vit22b_dense.evaluation import DepthPanelVisualizer
from vit22b_dense.evaluation.depth_panels import WIDTH, depth_bar, depth_colours, depth_panel, error_bar, error_colours


@pytest.mark.parametrize('max_depth', [80.0, 50.0])
def test_bars_show_each_depth_where_its_tick_is(max_depth):
    bar = depth_bar(400, max_depth)
    for metres in (2, 5, 10, 20, max_depth):
        x = round(399 * np.log(metres / 2) / np.log(max_depth / 2))
        assert np.abs(bar[10, min(x + 1, 399)].astype(int) - depth_colours(np.array(metres), max_depth)).max() < 12
    bar = error_bar(401)
    assert np.abs(bar[10, 199].astype(int) - error_colours(np.array(0.0))).max() < 6
    for end, metres in ((1, -10), (399, 10)):
        assert np.abs(bar[10, end].astype(int) - error_colours(np.array(metres))).max() < 6
    near, far = error_colours(np.array([-5.0, 5.0])).astype(int)
    assert near[2] > near[0]
    assert far[0] > far[2]


def test_panel_paints_the_points_where_they_are():
    image, pred = np.full((120, 240, 3), 90, np.uint8), np.full((120, 240), 10, np.float32)
    gt = np.zeros((120, 240), np.float32)
    gt[30, 60], gt[90, 200] = 10, 40
    panel = depth_panel(image, pred, gt, 80)
    left, right, top = 8, 8 + WIDTH + 8, 30
    height = panel.shape[0] // 2
    scale = WIDTH / 240

    def at(x0, y0, x, y):
        return panel[y0 + round((y + 0.5) * scale), x0 + round((x + 0.5) * scale)].tolist()

    assert at(left, top, 5, 5) == [90, 90, 90]
    assert at(right, top, 60, 30) == depth_colours(np.array(10.0), 80).tolist()
    assert at(right, top, 200, 90) == depth_colours(np.array(40.0), 80).tolist()
    assert at(right, top, 120, 60) == [30, 30, 30]
    assert at(left, height + top, 120, 60) == depth_colours(np.array(10.0), 80).tolist()
    assert at(right, height + top, 60, 30) == error_colours(np.array(0.0)).tolist()
    assert at(right, height + top, 200, 90) == error_colours(np.array(-30.0)).tolist()
    assert depth_panel(image, pred, None, 80).shape[0] < panel.shape[0]
    assert depth_panel(image, pred, 0 * gt, 80).shape == panel.shape


def test_visualizer_writes_what_mmseg_hands_it(tmp_path):
    visualizer = DepthPanelVisualizer(max_depth=50)
    sample = SegDataSample(pred_depth_map=PixelData(data=torch.full((1, 8, 9), 5.0)))
    for with_gt in (False, True):
        if with_gt:
            sample.gt_depth_map = PixelData(data=torch.ones(1, 8, 9))
        path = tmp_path / f'{with_gt}.png'
        visualizer.add_datasample('x', np.zeros((8, 9, 3), np.uint8), sample, out_file=path)
        assert Image.open(path).size[0] > WIDTH
