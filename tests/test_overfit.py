"""DPT at its config's defaults learns by heart what it is shown: three frames of a street, on real frozen features."""

import numpy as np
import pytest
import torch
from conftest import REPO
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from vit22b_dense import SparseDepthMetric
from vit22b_dense.demo.made_set import seeded_street
from vit22b_dense.demo.render import render, sample_light, sample_view
from vit22b_dense.engine.config import load_config

SIZE = (112, 224)


def frame(index: int) -> tuple[torch.Tensor, SegDataSample]:
    """A picture in BGR, and its depth in a fifth of the pixels, as LiDAR leaves it."""
    street, rng = seeded_street(0, 0, index)
    picture = render(street, sample_view(rng, SIZE), rng, sample_light(rng))
    depth = picture.depth * ((rng.random(SIZE) < 0.2) & (picture.depth <= 80))
    sample = SegDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE))
    sample.gt_depth_map = PixelData(data=torch.from_numpy(depth[None].astype(np.float32)))
    return torch.from_numpy(picture.image[..., ::-1].copy()).permute(2, 0, 1), sample


@pytest.mark.slow
def test_dpt_overfits_three_frames(shared_data):
    weights = shared_data('dinov2_small_hf')
    cfg = load_config(
        REPO / 'configs/kitti/dpt.py', dict(backbone='dinov2_small', weights=str(weights), regime='frozen')
    )
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    images, samples = zip(*map(frame, (1, 2, 3)), strict=True)
    data = model.data_preprocessor(dict(inputs=list(images), data_samples=list(samples)))
    with torch.no_grad():
        maps = model.extract_feat(data['inputs'])
    model.extract_feat = lambda inputs: maps  # of a frozen backbone they stay what they are
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    scores = {}
    for iteration in range(1, 201):
        model.train()
        optimizer.update_params(model.loss(**data)['decode.loss_depth'])
        if iteration % 20 == 0:
            metric = SparseDepthMetric(average='image')
            with torch.no_grad():
                metric.process({}, [sample.to_dict() for sample in model.eval().predict(**data)])
            scores[iteration] = metric.evaluate(len(images))['abs_rel']
            if scores[iteration] < 0.1:
                return
    pytest.fail(f'abs_rel by iteration: {scores}')
