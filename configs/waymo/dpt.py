"""Waymo Open v2: depth, DPT, 224 px.

tools/train.py configs/waymo/dpt.py --backbone vit22b_base --regime frozen --fraction 1/16
"""

_base_ = ['../_base_/tasks/waymo_depth.py', '../_base_/heads/dpt.py']

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(max_depth=_base_.max_depth),
    test_cfg=_base_.inference,
)
visualizer = dict(type='DepthPanelVisualizer', max_depth=_base_.max_depth)
