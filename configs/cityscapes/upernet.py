"""Cityscapes, UperNet, 504 px.

tools/train.py configs/cityscapes/upernet.py --backbone vit22b_base --regime frozen --fraction 1/16
"""

_base_ = ['../_base_/tasks/cityscapes.py', '../_base_/heads/upernet.py']

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=_base_.num_classes),
    test_cfg=_base_.inference,
)
