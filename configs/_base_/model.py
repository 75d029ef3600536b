"""What every model shares: the backbone in its regime, and images normalised as the backbone wants them."""

_base_ = [
    'backbones/{{$VIT22B_BACKBONE:vit22b_base}}.py',
    'regimes/{{$VIT22B_REGIME:frozen}}.py',
]

model = dict(
    data_preprocessor=dict(
        mean=_base_.pixel_mean,
        std=_base_.pixel_std,
        bgr_to_rgb=True,
    ),
    backbone=dict(**_base_.backbone, frozen=_base_.frozen),
)
