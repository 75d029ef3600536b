"""The toy street: depth, linear decoder, 224 px.

tools/train.py configs/demo/linear_depth.py --backbone vit22b_tiny --regime frozen
"""

_base_ = ['../_base_/tasks/toy_street_depth.py', '../_base_/heads/linear_depth.py']

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(max_depth=_base_.max_depth),
    test_cfg=_base_.inference,
)
visualizer = dict(type='DepthPanelVisualizer', max_depth=_base_.max_depth)
