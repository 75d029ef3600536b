"""Pascal Context, 60 classes, linear decoder, 504 px.

tools/train.py configs/pascal_context/linear_60.py --backbone vit22b_base --regime frozen
"""

_base_ = ['../_base_/tasks/pascal_context_60.py', '../_base_/heads/linear.py']

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=_base_.num_classes),
    test_cfg=_base_.inference,
)
