"""CamVid's 11 classes, linear decoder.

tools/train.py configs/camvid/linear.py --backbone vit22b_tiny --regime scratch --data-root DIR
"""

_base_ = ['../_base_/tasks/camvid.py', '../_base_/heads/linear.py']

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=_base_.num_classes),
    test_cfg=_base_.inference,
)
