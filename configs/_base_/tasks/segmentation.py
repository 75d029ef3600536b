"""What the segmentation data sets share; a task file adds where its data lies and which classes it has."""

_base_ = ['../loaders.py']

crop_size = (504, 504)
inference = dict(mode='slide', crop_size=crop_size, stride=(336, 336))
augmentation = [
    dict(type='RandomResize', scale=(2048, 504), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_resize = dict(type='Resize', scale=(2048, 504), keep_ratio=True)

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
