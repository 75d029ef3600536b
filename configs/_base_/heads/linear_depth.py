"""Linear depth decoder: one 1x1 convolution on the last map, bilinear upsampling (ViT-22B, arXiv 2302.05442)."""

_base_ = ['../model.py']

model = dict(
    type='SparseDepthEstimator',
    data_preprocessor=dict(type='DepthDataPreProcessor'),
    backbone=dict(out_indices=(-1,)),
    decode_head=dict(type='LinearDepthHead', in_channels=_base_.embed_dims),
)
