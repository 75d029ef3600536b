"""Pascal Context: 59 classes, background ignored; files and splits as with 60 classes."""

_base_ = ['pascal_context_60.py']

num_classes = 59
dataset = dict(type='PascalContextDataset59')
loading = [dict(type='LoadImage'), dict(type='LoadLabels', num_classes=num_classes)]
train_pipeline = [*loading, *_base_.augmentation]
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(**dataset, pipeline=train_pipeline))))
val_dataloader = dict(
    dataset=dict(**dataset, pipeline=[loading[0], _base_.test_resize, loading[1], dict(type='PackSegInputs')])
)
test_dataloader = val_dataloader
