"""What a model says of a place stays in that place, whether or not the patch divides the image.

A backbone whose tokens are the mean brightness of their patch, and a linear decoder that says on which side of an edge
that lies. The image is a ramp, so the edge is known to a fraction of a pixel, whatever patch it falls into.
"""

from statistics import median

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from vit22b_dense.models import DPTDepthHead

SIZES = [(504, 504), (500, 500), (350, 700), (360, 480), (375, 1242), (1024, 2048)]
DIMS = 8
SLOPE = 0.05  # of log(1 + depth) a pixel
CONSTANT = 1000.0  # a channel that dwarfs the brightness, so that the norm divides all tokens by the same number


def model_of(patch, task, mode):
    head = {
        'segmentation': dict(type='LinearHead', in_channels=DIMS, num_classes=2),
        'depth': dict(type='LinearDepthHead', in_channels=DIMS, max_depth=1e9, min_depth=0),
    }[task]
    windows = dict(crop_size=(8 * patch, 12 * patch), stride=(5 * patch, 8 * patch)) if 'slide' in mode else {}
    model = MODELS.build(
        dict(
            type='EncoderDecoder' if task == 'segmentation' else 'SparseDepthEstimator',
            data_preprocessor=dict(type='SegDataPreProcessor'),
            backbone=dict(
                type='ViT22B',
                arch=dict(embed_dims=DIMS, num_layers=1, num_heads=1, mlp_dims=DIMS),
                patch_size=patch,
                img_size=8 * patch,
            ),
            decode_head=head,
            test_cfg=ConfigDict(mode=mode, **windows),
        )
    ).eval()
    body = model.backbone
    body.blocks[0] = nn.Identity()
    for param in body.parameters():
        nn.init.zeros_(param)
    body.patch_embed.weight.data[0] = 1 / (3 * patch**2)
    body.patch_embed.bias.data[1] = CONSTANT
    nn.init.ones_(body.norm.weight)
    # the norm turns (brightness, CONSTANT, 0, ...) into this times the brightness
    scale = DIMS**0.5 / CONSTANT
    if task == 'segmentation':
        weight = model.decode_head.conv_seg.weight.data.zero_()
        weight[0, 0], weight[1, 0] = -1 / scale, 1 / scale
        model.decode_head.conv_seg.bias.data.zero_()
    else:
        model.decode_head.conv_depth.weight.data.zero_()[0, 0] = SLOPE / scale
        model.decode_head.conv_depth.bias.data.fill_(2.0)
    return model


def ramp(size, edge, dim):
    """Brightness ``(3, H, W)``: the distance in pixels from an edge, across or down."""
    line = torch.arange(size[dim]) + 0.5 - edge
    return (line[:, None] if dim == 0 else line[None]).expand(3, *size).contiguous()


def crossing(values, dim):
    """Where the values along the middle line become positive, in pixels."""
    line = values[:, values.shape[1] // 2] if dim == 0 else values[values.shape[0] // 2]
    after = int((line > 0).nonzero()[0])
    before, behind = line[after - 1].item(), line[after].item()
    return after - 0.5 + before / (before - behind) + 0.0


def away_from_windows(edge, side, patch, window, stride):
    """The nearest place to the right where no window ends: a window's outer half patch is flat, not a ramp."""
    ends = {0, side}
    for start in range(0, max(side - window, 0) + stride, stride):
        end = min(start + window, side)
        ends |= {max(end - window, 0), end}
    return next(edge + i for i in range(side) if min(abs(edge + i - end) for end in ends) > patch)


def predict(model, image, flip=False):
    meta = dict(ori_shape=tuple(image.shape[1:]), img_shape=tuple(image.shape[1:]))
    if flip:
        meta.update(flip=True, flip_direction='horizontal')
        image = image.flip(2)
    with torch.no_grad():
        return model.predict(image[None], [SegDataSample(metainfo=meta)])[0]


@pytest.mark.parametrize(
    ('size', 'mode'),
    [
        *((size, 'whole') for size in SIZES),
        *((size, mode) for size in ((500, 500), (360, 480), (375, 1242)) for mode in ('slide', 'flipped')),
    ],
    ids=str,
)
@pytest.mark.parametrize('patch', [14, 16])
def test_an_edge_stays_in_its_place(patch, size, mode):
    flip, mode = mode == 'flipped', 'whole' if mode == 'flipped' else mode
    segmentor = model_of(patch, 'segmentation', mode)
    estimator = model_of(patch, 'depth', f'{mode}_flip' if flip else mode)
    for dim, share in ((0, 0.23), (1, 0.8)):
        edge = share * size[dim]
        if mode == 'slide':
            edge = away_from_windows(edge, size[dim], patch, *((8 * patch, 5 * patch), (12 * patch, 8 * patch))[dim])
        image = ramp(size, edge, dim)
        logits = predict(segmentor, image, flip).seg_logits.data
        assert abs(crossing(logits[1] - logits[0], dim) - edge) < 0.5
        depth = predict(estimator, image, flip).pred_depth_map.data[0]
        assert abs(crossing(torch.log1p(depth) - 2, dim) - edge) < 0.5


@pytest.mark.parametrize('size', SIZES[:-1], ids=str)
@pytest.mark.parametrize('patch', [14, 16])
def test_the_loss_is_least_for_labels_in_the_right_place(patch, size):
    """Among labels whose edge lies a pixel off, those that fit the image win."""
    models = {task: model_of(patch, task, 'whole') for task in ('segmentation', 'depth')}
    for dim in (0, 1):
        edge = round(0.89 * size[dim])
        image = ramp(size, edge, dim)[None]
        losses = {task: {} for task in models}
        for off in (-1, 0, 1):
            place = ramp(size, edge + off, dim)[:1]
            sample = SegDataSample(
                gt_sem_seg=PixelData(data=(place > 0).long()),
                gt_depth_map=PixelData(data=torch.expm1(2 + SLOPE * place) * (place.abs() < 30)),
            )
            for task in losses:
                with torch.no_grad():
                    terms = models[task].loss(image, [sample])
                losses[task][off] = next(float(v) for name, v in terms.items() if 'loss' in name)
        assert {min(found, key=found.get) for found in losses.values()} == {0}


def upernet():
    """Without group norms and pooling, which see the whole map: all that is left is local."""
    head = dict(
        type='UPerHead', in_channels=[16] * 4, in_index=[0, 1, 2, 3], channels=16, num_classes=3, pool_scales=(),
        align_corners=False, dropout_ratio=0.0,
    )  # fmt: skip
    neck = MODELS.build(dict(type='TokenPyramid', in_channels=DIMS, out_channels=16, num_groups=4))
    for projection in neck.projections:
        projection[1] = nn.Identity()
    neck.scales[0][1] = nn.Identity()
    head = MODELS.build(head)
    nn.init.normal_(head.conv_seg.weight)
    return lambda maps, size: head.predict(neck((maps,)), [dict(img_shape=size)], None)


def dpt():
    head = DPTDepthHead(DIMS, channels=16, post_process_channels=(8, 8, 8, 8)).eval()
    return lambda maps, size: nn.functional.interpolate(head((maps,)), size=size, mode='bilinear')


@pytest.mark.parametrize('make', [upernet, dpt])
@pytest.mark.parametrize(('patch', 'size'), [(14, (252, 350)), (16, (350, 248))])
def test_shifted_maps_give_shifted_pictures(make, patch, size):
    """A blob that is moved by whole tokens moves by as many patches in the picture, to half a pixel.

    The median of a few random decoders counts: convolutions see the border, so a single one may be off by a little.
    """
    tokens = [-(-side // patch) for side in size]
    at = [n // 3 // 2 * 2 for n in tokens]  # away from the border, which convolutions see
    moved_by = [n // 4 // 2 * 2 for n in tokens]
    errors = []
    for seed in range(5):
        torch.manual_seed(seed)
        decoder = make()
        ground, blob = torch.randn(1, DIMS, 1, 1), 3 * torch.randn(1, DIMS, 2, 2)
        pictures = []
        with torch.no_grad():
            empty = decoder(ground.expand(1, DIMS, *tokens), size)
            for shift in ((0, 0), moved_by):
                maps = ground.repeat(1, 1, *tokens)
                top, left = (a + s for a, s in zip(at, shift, strict=True))
                maps[:, :, top : top + 2, left : left + 2] += blob
                energy = (decoder(maps, size) - empty)[0].square().sum(0).square()
                pictures.append(energy * (energy > 0.3 * energy.max()))  # without what changes far away
        for dim in (0, 1):
            places = torch.arange(size[dim]) + 0.5
            first, second = (float((p.sum(1 - dim) * places).sum() / p.sum()) for p in pictures)
            errors.append(second - first - moved_by[dim] * size[dim] / tokens[dim])
    assert abs(median(errors[::2])) < 0.5
    assert abs(median(errors[1::2])) < 0.5
