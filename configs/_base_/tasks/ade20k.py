"""ADE20K (ADEChallengeData2016): 150 classes, 20,210 training and 2,000 validation images."""

_base_ = ['segmentation.py']

num_classes = 150
dataset = dict(type='ADE20KDataset', data_root='{{$VIT22B_DATA_ROOT:data/ade/ADEChallengeData2016}}')
loading = [_base_.load_image, dict(type='LoadLabels', num_classes=num_classes)]
test_pipeline = [loading[0], _base_.test_resize, loading[1], dict(type='PackSegInputs')]
tta_pipeline = [
    loading[0],
    dict(type='TestTimeAug', transforms=[_base_.scales, _base_.flips, [loading[1]], test_pipeline[-1:]]),
]
train_pipeline = [*loading, *_base_.augmentation]
train_data = dict(data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'))
val_data = dict(data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'))
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(**dataset, **train_data, pipeline=train_pipeline))))
val_dataloader = dict(dataset=dict(**dataset, **val_data, pipeline=test_pipeline))
test_dataloader = val_dataloader
