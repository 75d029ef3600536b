"""Pascal Context: 59 classes, background ignored; files and splits as with 60 classes."""

_base_ = ['pascal_context_60.py']

num_classes = 59
dataset = dict(type='PascalContextDataset59')
loading = [_base_.load_image, dict(type='LoadLabels', num_classes=num_classes)]
test_pipeline = [loading[0], _base_.test_resize, loading[1], dict(type='PackSegInputs')]
tta_pipeline = [
    loading[0],
    dict(type='TestTimeAug', transforms=[_base_.scales, _base_.flips, [loading[1]], test_pipeline[-1:]]),
]
train_pipeline = [*loading, *_base_.augmentation]
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(**dataset, pipeline=train_pipeline))))
val_dataloader = dict(dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
