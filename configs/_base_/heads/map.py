"""Labels of whole images: attention pooling (MAP head) of the last map and a linear layer, sigmoid cross-entropy."""

_base_ = ['../model.py']

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(type='ImgDataPreprocessor'),
    backbone=dict(out_indices=(-1,)),
    neck=dict(type='AttentionPool', in_channels=_base_.embed_dims),
    head=dict(type='MultiLabelHead', in_channels=_base_.embed_dims),
)
