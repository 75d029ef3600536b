"""Whole backbones, inference with each decoder, windows, post-processing and metrics."""

from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmseg.registry import METRICS, MODELS
from mmseg.structures import SegDataSample
from torch import nn

from ..models.backbones.vit22b import ARCHS
from ..strips import Mosaic, Side, labels_of
from .timing import Group

CLASSES = 150
CHANNELS = 64  # of UperNet and DPT


def backbone_groups(sizes: list[str], pixels: int, device: torch.device) -> Iterator[Group]:
    """Backbones on one image of ``pixels`` squared, without gradients, against mmseg's VisionTransformer."""
    image = torch.randn(1, 3, pixels, pixels, device=device)
    for size in sizes:
        arch = ARCHS[size]
        vit = dict(type='ViT22B', arch=size)
        configs = {
            'ViT22B': vit,
            'ViT22B, frozen': dict(vit, frozen=True),
            'ViT22B, frozen, bfloat16': dict(vit, frozen=True, dtype='bfloat16'),
            'PlainViT': dict(type='PlainViT', arch=arch),
        }  # fmt: skip
        models = {"mmseg's VisionTransformer": mmseg_vit(size, pixels).to(device)}
        models |= {name: MODELS.build(cfg).to(device).eval() for name, cfg in configs.items()}
        cases = {name: _no_grad(lambda model=model: model(image)) for name, model in models.items()}
        yield Group('backbone', f'{size}, {pixels} px', cases)


def mmseg_vit(size: str, pixels: int) -> nn.Module:
    """mmseg's VisionTransformer of a preset's size."""
    arch = ARCHS[size]
    cfg = dict(
        type='VisionTransformer', img_size=pixels, patch_size=14, embed_dims=arch['embed_dims'],
        num_layers=arch['num_layers'], num_heads=arch['num_heads'], mlp_ratio=arch['mlp_dims'] // arch['embed_dims'],
        final_norm=True,
    )  # fmt: skip
    model = MODELS.build(cfg)
    model.eval()  # which returns nothing
    return model


def model_of(decoder: str, size: str, classes: int, test_cfg: dict, kind: str = 'DenseSegmentor') -> nn.Module:
    """A frozen ViT22B with a decoder: ``'linear'``, ``'upernet'``, ``'linear depth'`` or ``'dpt depth'``."""
    width, levels = ARCHS[size]['embed_dims'], [2, 5, 8, 11] if decoder in ('upernet', 'dpt depth') else [-1]
    norm = dict(type='GN', num_groups=16)
    heads = {
        'linear': dict(type='LinearHead', in_channels=width, num_classes=classes),
        'upernet': dict(
            type='UPerHead', in_channels=[CHANNELS] * 4, in_index=[0, 1, 2, 3], channels=CHANNELS, num_classes=classes,
            norm_cfg=norm, align_corners=False,
        ),
        'linear depth': dict(type='LinearDepthHead', in_channels=width),
        'dpt depth': dict(
            type='DPTDepthHead', in_channels=width, channels=CHANNELS, post_process_channels=[CHANNELS] * 4
        ),
    }  # fmt: skip
    pyramid = dict(type='TokenPyramid', in_channels=width, out_channels=CHANNELS)
    cfg = dict(
        type='SparseDepthEstimator' if 'depth' in decoder else kind,
        backbone=dict(type='ViT22B', arch=size, frozen=True, out_indices=levels),
        neck=pyramid if decoder == 'upernet' else None,
        decode_head=heads[decoder],
        test_cfg=ConfigDict(test_cfg),
    )
    return MODELS.build(cfg).eval()


def predicted(model: nn.Module, image: torch.Tensor, original: tuple[int, int]) -> object:
    """A run of a model's ``predict``."""
    meta = dict(ori_shape=original, img_shape=tuple(image.shape[2:]), img_path='')
    return _no_grad(lambda: model.predict(image, [SegDataSample(metainfo=dict(meta))]))


def inference_groups(sizes: list[str], pixels: int, device: torch.device) -> Iterator[Group]:
    """One image of 4:3 with each decoder, in windows: from the normalised image to labels or depth at its size."""
    original = pixels + 8, (pixels + 8) * 4 // 3
    image = torch.randn(1, 3, *original, device=device)
    slide = dict(mode='slide', crop_size=(pixels, pixels), stride=(pixels * 23 // 36,) * 2)
    for size in sizes:
        cases = {}
        for decoder in ('linear', 'upernet'):
            for kind, name in (('EncoderDecoder', "mmseg's"), ('DenseSegmentor', 'ours')):
                model = model_of(decoder, size, CLASSES, slide, kind).to(device)
                cases[f'{decoder}, {name}'] = predicted(model, image, original)
        for decoder in ('linear depth', 'dpt depth'):
            cases[decoder] = predicted(model_of(decoder, size, CLASSES, slide).to(device), image, original)
        yield Group('inference', f'{size}, {original[1]}x{original[0]}, {CLASSES} classes', cases)


def windows_groups(sizes: list[str], pixels: int, device: torch.device) -> Iterator[Group]:
    """Windows on an image as Cityscapes has them (1024x2048, 19 classes, at 504 px)."""
    image = torch.randn(1, 3, 2 * pixels + 16, 4 * pixels + 32, device=device)
    slide = dict(mode='slide', crop_size=(pixels, pixels), stride=(pixels * 23 // 36,) * 2)
    for size in sizes:
        models = {
            "mmseg's": model_of('linear', size, 19, slide, 'EncoderDecoder'),
            'ours': model_of('linear', size, 19, slide),
            "mmseg's with its VisionTransformer": model_of('linear', size, 19, slide, 'EncoderDecoder'),
        }
        models["mmseg's with its VisionTransformer"].backbone = mmseg_vit(size, pixels)
        for model in models.values():
            model.to(device)
        cases = {name: predicted(model, image, tuple(image.shape[2:])) for name, model in models.items()}
        yield Group('windows', f'{size}, {image.shape[3]}x{image.shape[2]}, 19 classes', cases)


def decoder_groups(sizes: list[str], pixels: int, device: torch.device) -> Iterator[Group]:
    """Each decoder in windows on an image as Cityscapes has them, from the normalised image to labels or depth."""
    image = torch.randn(1, 3, 2 * pixels + 16, 4 * pixels + 32, device=device)
    slide = dict(mode='slide', crop_size=(pixels, pixels), stride=(pixels * 23 // 36,) * 2)
    for size in sizes:
        cases = {
            decoder: predicted(model_of(decoder, size, 19, slide).to(device), image, tuple(image.shape[2:]))
            for decoder in ('linear', 'upernet', 'linear depth', 'dpt depth')
        }
        yield Group('decoders', f'{size}, {image.shape[3]}x{image.shape[2]}, 19 classes or depth', cases)


def evaluation_groups(pixels: int, device: torch.device) -> Iterator[Group]:
    """Post-processing of one image's logits, and metrics of its labels."""
    size, original = (pixels, pixels * 4 // 3), (pixels + 8, (pixels + 8) * 4 // 3)
    logits = torch.randn(1, CLASSES, *(-(-side // 14) for side in size), device=device)
    theirs = model_of('linear', 'tiny', CLASSES, dict(mode='whole'), 'EncoderDecoder')
    sample = SegDataSample(metainfo=dict(ori_shape=original, img_shape=size))

    def mmseg() -> object:
        full = theirs.decode_head.predict_by_feat(logits, [dict(img_shape=size)])
        return theirs.postprocess_result(full, [deepcopy(sample)])

    def ours() -> object:
        sides = (Side(*pair) for pair in zip(size, original, strict=True))
        return labels_of([Mosaic(*sides, lambda row: logits.permute(0, 2, 3, 1).contiguous())])

    cases = {"mmseg's": _no_grad(mmseg), 'ours': _no_grad(ours)}
    yield Group('post-processing', f'{original[1]}x{original[0]}, {CLASSES} classes', cases)

    rng = np.random.default_rng(0)
    labels = [
        torch.from_numpy(np.kron(rng.integers(0, CLASSES, (8, 8)), np.ones((64, 86), np.int64))) for _ in range(2)
    ]
    data = dict(zip(('pred_sem_seg', 'gt_sem_seg'), (dict(data=one[None]) for one in labels), strict=True))
    data.update(img_path='', ori_shape=original, img_shape=size)
    metrics = {}
    for kind in ('IoUMetric', 'CountedIoUMetric', 'ImageIoUMetric', 'GridIoUMetric'):
        metric = METRICS.build(dict(type=kind))
        metric.patch_size = 14  # of the last
        metric.dataset_meta = dict(classes=[str(i) for i in range(CLASSES)])
        metrics[kind] = lambda metric=metric: (metric.process({}, [dict(data)]), metric.results.clear())
    yield Group('metrics', f'688x512, {CLASSES} classes', metrics)


def _no_grad(run: object) -> object:
    return torch.no_grad()(run)
