"""Pretraining on crops of the toy street with the classes that they show (tools/make_toy_street.py --format labels).

tools/train.py configs/pretrain/toy_street.py --backbone vit22b_tiny --regime pretrain
"""

_base_ = ['../_base_/tasks/image_labels.py', '../_base_/heads/map.py']

from vit22b_dense.engine.schedule import pretraining_schedule

metainfo = dict(classes=('building', 'sky', 'tree', 'road', 'sidewalk', 'person', 'car'))
num_classes = len(metainfo['classes'])
pack = dict(type='PackLabelInputs', num_classes=num_classes)
common = dict(
    data_root='{{$VIT22B_DATA_ROOT:data/toy_street_labels}}',
    data_prefix=dict(img_path='images', label_path='labels'),
    metainfo=metainfo,
)
train_pipeline = [_base_.load_image, dict(type='RandomFlip', prob=0.5), pack]
train_dataloader = dict(
    batch_size=64, num_workers=2, dataset=dict(dataset=dict(dataset=dict(**common, pipeline=train_pipeline)))
)
val_dataloader = dict(batch_size=128, num_workers=2, dataset=dict(**common, pipeline=[_base_.load_image, pack]))
test_dataloader = val_dataloader
max_iters = _base_.max_iters // 20
train_cfg, param_scheduler = pretraining_schedule(max_iters)
model = dict(head=dict(num_classes=num_classes))
