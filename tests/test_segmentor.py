"""`DenseSegmentor` gives mmseg's labels without logits at the size of the picture."""

import copy
import subprocess
import sys

import pytest
import torch
from conftest import REPO
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from vit22b_dense.errors import UserError
from vit22b_dense.strips import STRIP_NUMBERS

ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, mlp_dims=32)
SLIDE = dict(mode='slide', crop_size=(56, 84), stride=(28, 42))


def build(kind, head='LinearHead', classes=150, **test_cfg):
    torch.manual_seed(0)
    more = {}
    decoder = dict(type='LinearHead', in_channels=24)
    if head == 'UPerHead':
        more['neck'] = dict(type='TokenPyramid', in_channels=24, out_channels=16, num_groups=4)
        decoder = dict(
            type='UPerHead', in_channels=[16] * 4, in_index=[0, 1, 2, 3], channels=16, align_corners=False,
            norm_cfg=dict(type='GN', num_groups=4),
        )  # fmt: skip
    model = MODELS.build(
        dict(
            type=kind,
            data_preprocessor=dict(type='SegDataPreProcessor', mean=[127] * 3, std=[70] * 3),
            backbone=dict(type='ViT22B', arch=ARCH),
            decode_head=dict(**decoder, num_classes=classes),
            test_cfg=ConfigDict(test_cfg),
            **more,
        )
    ).eval()
    nn.init.normal_(model.decode_head.conv_seg.weight)
    return model


def predicted(model, images, original):
    samples = [SegDataSample(metainfo=dict(ori_shape=original, img_shape=tuple(images.shape[2:]))) for _ in images]
    with torch.no_grad():
        return torch.cat([sample.pred_sem_seg.data for sample in model.predict(images, samples)])


@pytest.mark.parametrize(
    ('head', 'test_cfg', 'original'),
    [
        ('LinearHead', dict(mode='whole'), (100, 130)),
        ('LinearHead', SLIDE, (100, 130)),
        ('LinearHead', SLIDE, (371, 555)),
        ('UPerHead', SLIDE, (60, 70)),
        ('UPerHead', dict(mode='whole'), (120, 140)),
    ],
    ids=str,
)
def test_the_labels_are_mmsegs(head, test_cfg, original, monkeypatch):
    monkeypatch.setitem(STRIP_NUMBERS, 'cpu', 150 * original[1] * 7)  # strips of seven rows
    ours, theirs = (build(kind, head, **test_cfg) for kind in ('DenseSegmentor', 'EncoderDecoder'))
    aligned = head == 'UPerHead'
    for model in (ours, theirs):
        model.align_corners = model.decode_head.align_corners = aligned
    images = torch.randn(2, 3, 100, 130)
    found, expected = (predicted(model, images, original) for model in (ours, theirs))
    assert found.shape == expected.shape == (2, *original)
    assert len(expected.unique()) > 20
    assert (found == expected).sum() >= 0.99999 * found.numel() - aligned  # rounding decides where classes are equal


def test_logits_come_when_they_are_asked_for():
    image = torch.randn(1, 3, 60, 70)
    for asked in (False, True):
        model = build('DenseSegmentor', mode='whole', logits=asked)
        sample = SegDataSample(metainfo=dict(ori_shape=(60, 70), img_shape=(60, 70)))
        with torch.no_grad():
            (found,) = model.predict(image, [sample])
        assert ('seg_logits' in found) == asked


@pytest.mark.parametrize('asked', [False, True])
def test_augmented_images_give_mmsegs_labels(asked):
    """Two scales, mirrored both ways, one of them padded: the mean of the probabilities at the original size."""
    data = dict(inputs=[], data_samples=[])
    for size, direction, padding in (
        ((60, 70), None, (0, 0, 0, 0)),
        ((90, 105), 'horizontal', (0, 0, 0, 0)),
        ((100, 110), 'vertical', (2, 3, 4, 6)),
    ):
        meta = dict(ori_shape=(80, 94), img_shape=size, flip=direction is not None, flip_direction=direction)
        meta.update(padding_size=list(padding), img_path='a.png')
        data['inputs'].append([torch.randint(0, 256, (3, *size), dtype=torch.uint8)])
        data['data_samples'].append([SegDataSample(metainfo=meta)])
    found = []
    for model, tta, logits in (('DenseSegmentor', 'DenseSegTTAModel', asked), ('EncoderDecoder', 'SegTTAModel', True)):
        model = MODELS.build(dict(type=tta, module=build(model, logits=logits, **SLIDE)))
        with torch.no_grad():
            (sample,) = model.test_step(copy.deepcopy(data))
        found.append(sample.pred_sem_seg.data)
        assert ('seg_logits' in sample) == logits
    assert found[0].shape == found[1].shape == (1, 80, 94)
    assert len(found[1].unique()) > 20
    assert (found[0] == found[1]).float().mean() > 0.9998  # one pixel


def test_rows_of_windows_are_let_go_and_windows_go_together(monkeypatch):
    monkeypatch.setitem(STRIP_NUMBERS, 'cpu', 150 * 130 * 7)
    monkeypatch.setattr('vit22b_dense.models.windows.PIXELS_ON_CPU', 2 * 56 * 84)
    model, batches, rows = build('DenseSegmentor', **SLIDE), [], []
    kept, forward = model.mosaic, model._forward
    monkeypatch.setattr(model, '_forward', lambda images: batches.append(len(images)) or forward(images))

    def mosaic(image, meta):
        made = kept(image, meta)
        strip = made.strip
        made.strip = lambda *span: (strip(*span), rows.append(len(made._decoded)))[0]
        return made

    monkeypatch.setattr(model, 'mosaic', mosaic)
    predicted(model, torch.randn(1, 3, 400, 200), (400, 200))
    assert batches == [2, 2] * 14  # each row of windows once
    assert max(rows) <= 3
    assert len(rows) > 50


def test_windows_that_leave_pixels_out_are_refused_and_small_images_are_not():
    model = build('DenseSegmentor', mode='slide', crop_size=(28, 28), stride=(14, 29))
    with pytest.raises(UserError, match=r'stride=\(14, 29\) for windows of crop_size=\(28, 28\)'):
        predicted(model, torch.randn(1, 3, 60, 70), (60, 70))
    model = build('DenseSegmentor', **SLIDE)
    image = torch.randn(1, 3, 9, 11)  # smaller than a patch
    assert torch.equal(predicted(model, image, (9, 11)), predicted(build('EncoderDecoder', **SLIDE), image, (9, 11)))


PROBE = """
import torch
from mmengine.config import ConfigDict
from test_segmentor import build, predicted

def peak():
    return next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith('VmHWM'))

torch.set_num_threads(1)
model = build('DenseSegmentor', mode='slide', crop_size=(504, 504), stride=(322, 322))
predicted(model, torch.randn(1, 3, 56, 56), (56, 56))
before = peak()
labels = predicted(model, torch.randn(1, 3, 504, 672), (3000, 4000))
assert labels.shape == (1, 3000, 4000)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='reads the peak from /proc')
def test_twelve_megapixels_of_150_classes_take_under_a_gigabyte():
    done = subprocess.run(
        [sys.executable, '-c', PROBE], cwd=REPO / 'tests', capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.splitlines()[-1]) < 1e9
