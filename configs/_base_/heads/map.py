"""Labels of whole images: attention pooling (MAP head) of the last map and a linear layer, sigmoid cross-entropy."""

_base_ = ['../backbones/{{$VIT22B_BACKBONE:vit22b_base}}.py', '../regimes/{{$VIT22B_REGIME:frozen}}.py']

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(type='ImgDataPreprocessor', mean=_base_.pixel_mean, std=_base_.pixel_std, bgr_to_rgb=True),
    backbone=dict(**_base_.backbone, frozen=_base_.frozen, out_indices=(-1,)),
    neck=dict(type='AttentionPool', in_channels=_base_.embed_dims),
    head=dict(type='MultiLabelHead', in_channels=_base_.embed_dims),
)
