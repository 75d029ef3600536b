"""DPT (arXiv 2103.13413) on the last map alone, as in ViT-22B, arXiv 2302.05442; --decoder-size lean or published."""

_base_ = ['../backbones/{{$VIT22B_BACKBONE:vit22b_base}}.py', '../regimes/{{$VIT22B_REGIME:frozen}}.py']

# Lean by default, after the curve in docs/results.md; published: DPT's own sizes
lean = '{{$VIT22B_DECODER_SIZE:lean}}' == 'lean'
width = 64 if lean else 256

model = dict(
    type='SparseDepthEstimator',
    data_preprocessor=dict(
        type='DepthDataPreProcessor', mean=_base_.pixel_mean, std=_base_.pixel_std, bgr_to_rgb=True
    ),
    backbone=dict(**_base_.backbone, frozen=_base_.frozen, out_indices=(-1,)),
    decode_head=dict(
        type='DPTDepthHead',
        in_channels=_base_.embed_dims,
        channels=width,
        post_process_channels=(64, 96, 128, 192) if lean else (96, 192, 384, 768),
    ),
)
# On a frozen backbone the decoder has a rate of its own; otherwise the regime's holds for all.
rate = 1e-3 if lean else 1e-4
optim_wrapper = dict(optimizer=dict(lr=rate), clip_grad=dict(max_norm=10.0)) if _base_.frozen else dict()
