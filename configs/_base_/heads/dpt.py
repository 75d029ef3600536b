"""DPT (arXiv 2103.13413) on the last map alone, as in ViT-22B, arXiv 2302.05442."""

_base_ = ['../backbones/{{$VIT22B_BACKBONE:vit22b_base}}.py', '../regimes/{{$VIT22B_REGIME:frozen}}.py']

model = dict(
    type='SparseDepthEstimator',
    data_preprocessor=dict(
        type='DepthDataPreProcessor', mean=_base_.pixel_mean, std=_base_.pixel_std, bgr_to_rgb=True
    ),
    backbone=dict(**_base_.backbone, frozen=_base_.frozen, out_indices=(-1,)),
    decode_head=dict(
        type='DPTDepthHead',
        in_channels=_base_.embed_dims,
        channels=256,
        post_process_channels=(96, 192, 384, 768),
    ),
)
# On a frozen backbone the decoder has a rate of its own; otherwise the regime's holds for all.
optim_wrapper = dict(optimizer=dict(lr=1e-4), clip_grad=dict(max_norm=10.0)) if _base_.frozen else dict()
