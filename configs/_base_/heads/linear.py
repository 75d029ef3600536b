"""Linear decoder: one 1x1 convolution on the last map, bilinear upsampling (Segmenter, arXiv 2105.05633)."""

_base_ = ['../model.py']

model = dict(
    type='DenseSegmentor',
    data_preprocessor=dict(type='SegDataPreProcessor'),
    backbone=dict(out_indices=(-1,)),
    decode_head=dict(type='LinearHead', in_channels=_base_.embed_dims),
)
# On a frozen backbone the decoder has a rate of its own; otherwise the regime's holds for all.
optim_wrapper = dict(optimizer=dict(lr=3e-2)) if _base_.frozen else dict()
