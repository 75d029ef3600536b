"""Linear decoder: one 1x1 convolution on the last map, bilinear upsampling (Segmenter, arXiv 2105.05633)."""

_base_ = ['../backbones/{{$VIT22B_BACKBONE:vit22b_base}}.py', '../regimes/{{$VIT22B_REGIME:frozen}}.py']

model = dict(
    type='DenseSegmentor',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=_base_.pixel_mean, std=_base_.pixel_std, bgr_to_rgb=True),
    backbone=dict(**_base_.backbone, frozen=_base_.frozen, out_indices=(-1,)),
    decode_head=dict(type='LinearHead', in_channels=_base_.embed_dims),
)
# On a frozen backbone the decoder has a rate of its own; otherwise the regime's holds for all.
optim_wrapper = dict(optimizer=dict(lr=3e-2)) if _base_.frozen else dict()
