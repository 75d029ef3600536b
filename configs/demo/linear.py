"""The toy street: linear decoder.

tools/train.py configs/demo/linear.py --backbone vit22b_tiny --regime scratch
"""

_base_ = ['../_base_/tasks/toy_street.py', '../_base_/heads/linear.py']

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=_base_.num_classes),
    test_cfg=_base_.inference,
)
