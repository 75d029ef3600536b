"""Linear decoder: one 1x1 convolution on the last map, bilinear upsampling (Segmenter, arXiv 2105.05633)."""

_base_ = ['../model.py']

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor'),
    backbone=dict(out_indices=(-1,)),
    decode_head=dict(type='LinearHead', in_channels=_base_.embed_dims),
)
