"""Cityscapes: 19 classes, 2,975 training images of 18 cities and 500 validation images, 2048x1024, tested by windows.

The label maps gtFine_labelTrainIds are made by the official cityscapesscripts. Fractions take whole cities; single
images with --cfg-options train_dataloader.dataset.dataset.unit=frame.
"""

_base_ = ['segmentation.py']

num_classes = 19
dataset = dict(type='CityscapesByCity', data_root='{{$VIT22B_DATA_ROOT:data/cityscapes}}')
loading = [_base_.load_image, dict(type='LoadLabels', num_classes=num_classes)]
test_pipeline = [*loading, dict(type='PackSegInputs')]
tta_pipeline = [
    loading[0],
    dict(type='TestTimeAug', transforms=[_base_.factors, _base_.flips, [loading[1]], test_pipeline[-1:]]),
]
resize = dict(type='RandomResize', scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True)
train_pipeline = [*loading, resize, *_base_.augmentation[1:]]
train_data = dict(data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'))
val_data = dict(data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'))
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(**dataset, **train_data, pipeline=train_pipeline))))
val_dataloader = dict(dataset=dict(**dataset, **val_data, pipeline=test_pipeline))
test_dataloader = val_dataloader
