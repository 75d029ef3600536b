"""What the segmentation data sets share; a task file adds where its data lies and which classes it has."""

_base_ = ['../schedule.py']

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

train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='SeededInfiniteSampler', shuffle=True),
    dataset=dict(
        type='SeededDataset',
        dataset=dict(type='FewShotSubset', fraction=_base_.fraction, seed=int('{{$VIT22B_SEED:0}}')),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
