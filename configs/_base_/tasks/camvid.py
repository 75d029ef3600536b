"""CamVid's 11 classes: a worked example for a data set of one's own.

For yours, copy this file and its leaf, and change classes, colours, folders and sizes. Images and 8-bit label maps
with the same name lie in two folders a split; label values are 0..10, and 255 is ignored.
"""

_base_ = ['segmentation.py']

from vit22b_dense.engine.schedule import short_schedule

classes = (
    'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist',
)  # fmt: skip
palette = [
    [70, 130, 180], [128, 64, 0], [192, 192, 128], [128, 64, 128], [244, 35, 232], [107, 142, 35],
    [220, 220, 0], [190, 153, 153], [0, 0, 142], [220, 20, 60], [0, 160, 160],
]  # fmt: skip
num_classes = len(classes)
crop_size = (336, 448)
inference = dict(_delete_=True, mode='whole')
dataset = dict(
    type='BaseSegDataset',
    data_root='{{$VIT22B_DATA_ROOT:data/camvid}}',
    metainfo=dict(classes=classes, palette=palette),
)
loading = [_base_.load_image, dict(type='LoadLabels', num_classes=num_classes)]
test_pipeline = [*loading, dict(type='PackSegInputs')]
tta_pipeline = [
    loading[0],
    dict(type='TestTimeAug', transforms=[_base_.factors, _base_.flips, [loading[1]], test_pipeline[-1:]]),
]
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        dataset=dict(
            dataset=dict(
                **dataset,
                data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
                pipeline=[
                    *loading,
                    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.75, 2.0), keep_ratio=True),
                    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
                    dict(type='RandomFlip', prob=0.5),
                    dict(type='PhotoMetricDistortion'),
                    dict(type='PackSegInputs'),
                ],
            )
        )
    ),
)
val_dataloader = dict(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
max_iters = _base_.max_iters // 200
train_cfg, param_scheduler = short_schedule(max_iters)
