"""Pascal VOC 2012: 21 classes with background, 1,464 training and 1,449 validation images."""

_base_ = ['segmentation.py']

num_classes = 21
dataset = dict(
    type='PascalVOCDataset',
    data_root='{{$VIT22B_DATA_ROOT:data/VOCdevkit/VOC2012}}',
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
)
loading = [dict(type='LoadImage'), dict(type='LoadLabels', num_classes=num_classes)]
train_pipeline = [*loading, *_base_.augmentation]
train_dataloader = dict(
    dataset=dict(
        dataset=dict(dataset=dict(**dataset, ann_file='ImageSets/Segmentation/train.txt', pipeline=train_pipeline))
    )
)
val_dataloader = dict(
    dataset=dict(
        **dataset,
        ann_file='ImageSets/Segmentation/val.txt',
        pipeline=[loading[0], _base_.test_resize, loading[1], dict(type='PackSegInputs')],
    )
)
test_dataloader = val_dataloader
