"""Pascal VOC 2012 with the augmented set, linear decoder, 504 px.

tools/train.py configs/pascal_voc12/linear_aug.py --backbone vit22b_base --regime frozen
"""

_base_ = ['../_base_/tasks/pascal_voc12_aug.py', '../_base_/heads/linear.py']

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=_base_.num_classes),
    test_cfg=_base_.inference,
)
