"""The toy street: depth, DPT, 224 px.

tools/train.py configs/demo/dpt.py --backbone vit22b_tiny --regime frozen
"""

_base_ = ['../_base_/tasks/toy_street_depth.py', '../_base_/heads/dpt.py']

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(max_depth=_base_.max_depth, channels=32, post_process_channels=(32, 48, 64, 96)),
    test_cfg=_base_.inference,
)
# half as wide as usual, it learns at a higher rate
optim_wrapper = dict(optimizer=dict(lr=3e-3)) if _base_.frozen else dict()
visualizer = dict(type='DepthPanelVisualizer', max_depth=_base_.max_depth)
