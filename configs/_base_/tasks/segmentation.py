"""What the segmentation data sets share; a task file adds where its data lies and which classes it has."""

_base_ = ['../runtime.py']

import mmengine

# Published: 504 px, windows every 322 px (InternVL, arXiv 2312.14238), which are 36 and 23 patches of 14. With another
# patch size, the nearest multiples of it.
patch = mmengine.Config.fromfile('{{fileDirname}}/../backbones/{{$VIT22B_BACKBONE:vit22b_base}}.py').patch_size
side = round(504 / patch) * patch
stride = round(322 / patch) * patch
crop_size = (side, side)
inference = dict(mode='slide', crop_size=crop_size, stride=(stride, stride))
augmentation = [
    dict(type='RandomResize', scale=(2048, side), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_resize = dict(type='Resize', scale=(2048, side), keep_ratio=True)

# Test-time augmentation as in mmseg: six sizes, each also mirrored. `scales` are relative to `test_resize`, `factors`
# to the image itself.
ratios = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
scales = [dict(test_resize, scale=tuple(round(ratio * side) for side in test_resize['scale'])) for ratio in ratios]
factors = [dict(type='Resize', scale_factor=ratio, keep_ratio=True) for ratio in ratios]
tta_model = dict(type='DenseSegTTAModel')

val_evaluator = dict(type='CountedIoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
