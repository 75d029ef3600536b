"""CamVid's 11 classes: images and 8-bit label maps of the same name; label values are 0..10, and 255 is ignored."""

_base_ = ['folder.py']

classes = (
    'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist',
)  # fmt: skip
palette = [
    [70, 130, 180], [128, 64, 0], [192, 192, 128], [128, 64, 128], [244, 35, 232], [107, 142, 35],
    [220, 220, 0], [190, 153, 153], [0, 0, 142], [220, 20, 60], [0, 160, 160],
]  # fmt: skip
num_classes = len(classes)
crop_size = (336, 448)
dataset = dict(data_root='{{$VIT22B_DATA_ROOT:data/camvid}}', metainfo=dict(classes=classes, palette=palette))
train_pipeline = [
    *_base_.loading,
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.75, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    *_base_.augmentation[2:],
]
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(**dataset, pipeline=train_pipeline))))
val_dataloader = dict(dataset=dataset)
test_dataloader = val_dataloader
