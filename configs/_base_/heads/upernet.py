"""UperNet (arXiv 1807.10221) on four scales made from four depths of a plain ViT; --decoder-size lean or published."""

_base_ = ['../backbones/{{$VIT22B_BACKBONE:vit22b_base}}.py', '../regimes/{{$VIT22B_REGIME:frozen}}.py']

# Lean by default, after the curve in docs/results.md; published: as in BEiT, arXiv 2106.08254
lean = '{{$VIT22B_DECODER_SIZE:lean}}' == 'lean'
width = 64 if lean else 512
pyramid = (2, 1, 0.5, 0.25) if lean else (4, 2, 1, 0.5)

model = dict(
    type='DenseSegmentor',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=_base_.pixel_mean, std=_base_.pixel_std, bgr_to_rgb=True),
    backbone=dict(**_base_.backbone, frozen=_base_.frozen, out_indices=_base_.levels),
    neck=dict(type='TokenPyramid', in_channels=_base_.embed_dims, out_channels=width, scales=pyramid),
    decode_head=dict(
        type='UPerHead',
        in_channels=[width] * 4,
        in_index=[0, 1, 2, 3],
        channels=width,
        pool_scales=(1, 2, 3, 6),
        dropout_ratio=0.1,
        norm_cfg=dict(type='GN', num_groups=32),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
# On a frozen backbone the decoder has a rate of its own; otherwise the regime's holds for all.
optim_wrapper = dict(optimizer=dict(lr=1e-2 if lean else 3e-3)) if _base_.frozen else dict()
