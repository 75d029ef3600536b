"""NYU Depth v2: depth, DPT, original size.

tools/train.py configs/nyu/dpt_depth.py --backbone vit22b_base --regime frozen
"""

_base_ = ['../_base_/tasks/nyu_depth.py', '../_base_/heads/dpt.py']

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(max_depth=_base_.max_depth),
    test_cfg=_base_.inference,
)
visualizer = dict(type='DepthPanelVisualizer', max_depth=_base_.max_depth)
