"""CamVid's 11 classes, UperNet.

tools/train.py configs/camvid/upernet.py --backbone vit22b_tiny --regime scratch --data-root DIR
"""

_base_ = ['../_base_/tasks/camvid.py', '../_base_/heads/upernet.py']

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=_base_.num_classes),
    test_cfg=_base_.inference,
)
