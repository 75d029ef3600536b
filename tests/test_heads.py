import pytest
import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch.nn import functional as F

from vit22b_dense import LinearHead, TokenPyramid
from vit22b_dense.models.decoders import upsampled


def test_linear_head_is_one_product_upsampled_with_cross_entropy():
    torch.manual_seed(0)
    head = LinearHead(in_channels=8, num_classes=5)
    assert {n: tuple(p.shape) for n, p in head.named_parameters()} == {
        'conv_seg.weight': (5, 8, 1, 1),
        'conv_seg.bias': (5,),
    }
    maps = (torch.zeros(2, 8, 3, 4), torch.randn(2, 8, 3, 4))
    label = torch.randint(0, 5, (2, 1, 42, 56))
    label[:, :, :7] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one)) for one in label]
    logits = torch.einsum('kd,bdhw->bkhw', head.conv_seg.weight[:, :, 0, 0], maps[1]) + head.conv_seg.bias.view(
        5, 1, 1
    )
    full = F.interpolate(logits, size=(42, 56), mode='bilinear', align_corners=False)
    losses = head.loss(maps, samples, None)
    expected = F.cross_entropy(full, label[:, 0], ignore_index=255, reduction='sum') / label.numel()
    torch.testing.assert_close(losses['loss_ce'], expected)
    torch.testing.assert_close(head.predict(maps, [dict(img_shape=(42, 56))], None), full)


def test_loss_at_tokens_is_the_cross_entropy_with_shares_of_the_classes():
    torch.manual_seed(0)
    head = LinearHead(in_channels=8, num_classes=5, loss_at='tokens')
    maps, label = (torch.randn(2, 8, 3, 4),), torch.randint(0, 5, (2, 1, 42, 56))
    label[:, :, :7] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one)) for one in label]
    # each pixel with the logits of the token it lies in
    nearest = F.interpolate(head(maps), size=(42, 56), mode='nearest')
    expected = F.cross_entropy(nearest, label[:, 0], ignore_index=255, reduction='sum') / label.numel()
    losses = head.loss(maps, samples, None)
    torch.testing.assert_close(losses['loss_ce'], expected)
    losses['loss_ce'].backward()
    assert head.conv_seg.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(('spread', 'offset'), [(1, 0), (20, -1000), (300, 1000)])  # exponentials may vanish
def test_loss_in_strips_has_the_gradient_of_the_whole(monkeypatch, spread, offset):
    torch.manual_seed(0)
    logits, label = torch.randn(2, 7, 5, 6) * spread + offset, torch.randint(0, 7, (2, 33, 47), dtype=torch.uint8)
    logits.requires_grad_()
    label[torch.rand(label.shape) < 0.2] = 255
    full = F.interpolate(logits, size=(33, 47), mode='bilinear', align_corners=False)
    expected = F.cross_entropy(full, label.long(), ignore_index=255, reduction='sum')
    monkeypatch.setattr(upsampled, 'strip_numbers', lambda device: 7 * 47 * 4)  # four rows
    loss, correct = upsampled.upsampled_cross_entropy(logits, label)
    torch.testing.assert_close(loss, expected)
    assert correct == (full.argmax(1) == label).sum()
    gradients = [torch.autograd.grad(one, logits)[0] for one in (loss, expected)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('wrong', [7, 200, -1])
def test_a_label_that_is_no_class_is_an_error(wrong):
    label = torch.zeros(1, 20, 24, dtype=torch.int64)
    label[0, 0, 0], label[0, 3, 5] = 255, wrong
    with pytest.raises((IndexError, RuntimeError), match='out of bounds'):
        upsampled.upsampled_cross_entropy(torch.randn(1, 7, 5, 6), label)


def test_the_loss_is_in_float32_in_mixed_precision():
    torch.manual_seed(0)
    logits, label = torch.randn(1, 7, 5, 6), torch.randint(0, 7, (1, 33, 47))
    expected, _ = upsampled.upsampled_cross_entropy(logits, label)
    with torch.autocast('cpu', torch.bfloat16):
        loss, _ = upsampled.upsampled_cross_entropy(logits, label)
    torch.testing.assert_close(loss, expected, atol=0, rtol=0)


def test_other_losses_are_mmsegs():
    head = LinearHead(in_channels=8, num_classes=5, loss_decode=dict(type='CrossEntropyLoss', class_weight=[1.0] * 5))
    maps, label = (torch.randn(2, 8, 3, 4),), torch.randint(0, 5, (2, 1, 42, 56))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one)) for one in label]
    expected = super(LinearHead, head).loss_by_feat(head(maps), samples)
    assert head.loss(maps, samples, None) == expected
    with pytest.raises(ValueError, match="loss_at='tokens'"):
        LinearHead(8, 5, loss_at='tokens', loss_decode=dict(type='CrossEntropyLoss', class_weight=[1.0] * 5))


def test_a_norm_in_front_of_the_convolution():
    head = LinearHead(in_channels=8, num_classes=5, norm_cfg=dict(type='BN')).train()
    maps = torch.randn(2, 8, 3, 4) * 7 + 3
    normed = (maps - maps.mean((0, 2, 3), keepdim=True)) / maps.std((0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(head((maps,)), head.conv_seg(normed), atol=1e-5, rtol=1e-4)


def test_two_classes_keep_two_outputs():
    assert LinearHead(in_channels=4, num_classes=2).conv_seg.out_channels == 2


def test_pyramid_scales_and_projection_first():
    neck = TokenPyramid(in_channels=40, out_channels=16, num_groups=4)
    maps = neck((torch.randn(1, 40, 5, 6),))
    assert [tuple(m.shape) for m in maps] == [(1, 16, 20, 24), (1, 16, 10, 12), (1, 16, 5, 6), (1, 16, 3, 3)]
    wide = [tuple(p.shape) for p in neck.parameters() if 40 in p.shape]
    assert wide == [(16, 40, 1, 1)] * 4


def test_pyramid_reads_each_of_four_maps():
    torch.manual_seed(0)
    neck = TokenPyramid(in_channels=8, out_channels=8, num_groups=2)
    maps = [torch.randn(1, 8, 4, 4) for _ in range(4)]
    before = neck(tuple(maps))
    for i in range(4):
        changed = list(maps)
        changed[i] = torch.randn(1, 8, 4, 4)
        after = neck(tuple(changed))
        assert [not torch.equal(a, b) for a, b in zip(after, before, strict=True)] == [j == i for j in range(4)]
    with pytest.raises(ValueError, match='one or four maps, not 2'):
        neck(tuple(maps[:2]))


def test_pyramid_has_the_scales_that_are_asked_for():
    neck = TokenPyramid(in_channels=8, out_channels=8, scales=(2, 1, 0.5, 0.25), num_groups=2)
    assert [tuple(x.shape[1:]) for x in neck((torch.randn(1, 8, 5, 6),))] == [
        (8, 10, 12),
        (8, 5, 6),
        (8, 3, 3),
        (8, 2, 2),
    ]
    for scales in ((4, 2, 1), (8, 4, 2, 1)):
        with pytest.raises(ValueError, match='give four of 4, 2, 1, 0.5, 0.25'):
            TokenPyramid(in_channels=8, out_channels=8, scales=scales, num_groups=2)


def test_the_22b_pyramid_stays_small():
    with torch.device('meta'):
        neck = TokenPyramid(in_channels=6144)
    assert sum(p.numel() for p in neck.parameters()) < 16e6


def test_upernet_trains_at_batch_one():
    neck = TokenPyramid(in_channels=8, out_channels=32)
    head = MODELS.build(
        dict(type='UPerHead', in_channels=[32] * 4, in_index=[0, 1, 2, 3], channels=32, num_classes=3,
             norm_cfg=dict(type='GN', num_groups=8), align_corners=False)
    )  # fmt: skip
    head.train()(neck((torch.randn(1, 8, 4, 4),))).mean().backward()
    assert all(p.grad is not None for p in neck.parameters())
