"""Pascal VOC 2012: 21 classes with background, 1,464 training and 1,449 validation images."""

_base_ = ['segmentation.py']

num_classes = 21
dataset = dict(
    type='PascalVOCDataset',
    data_root='{{$VIT22B_DATA_ROOT:data/VOCdevkit/VOC2012}}',
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
)
loading = [_base_.load_image, dict(type='LoadLabels', num_classes=num_classes)]
test_pipeline = [loading[0], _base_.test_resize, loading[1], dict(type='PackSegInputs')]
tta_pipeline = [
    loading[0],
    dict(type='TestTimeAug', transforms=[_base_.scales, _base_.flips, [loading[1]], test_pipeline[-1:]]),
]
train_pipeline = [*loading, *_base_.augmentation]
train_data = dict(ann_file='ImageSets/Segmentation/train.txt')
val_data = dict(ann_file='ImageSets/Segmentation/val.txt')
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(**dataset, **train_data, pipeline=train_pipeline))))
val_dataloader = dict(dataset=dict(**dataset, **val_data, pipeline=test_pipeline))
test_dataloader = val_dataloader
