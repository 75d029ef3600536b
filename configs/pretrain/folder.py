"""Pretraining on images of your own, a folder for each class. Copy this file to where you like, and change the copy.

DATA_ROOT/{train,val}/CLASS/NAME.{jpg,png,...}

vit22b-dense train my_images.py --backbone vit22b_small --regime pretrain --data-root DATA_ROOT

Images with several classes: data_prefix=dict(img_path='images', label_path='labels') for both data sets, and

DATA_ROOT/images/{train,val}/NAME.{jpg,png,...} and DATA_ROOT/labels/{train,val}/NAME.txt, its classes, one a line
"""

# Parts that come with the package, wherever it is installed.
_base_ = [f'{__import__("vit22b_dense").CONFIGS}/_base_/{n}.py' for n in ('tasks/image_labels', 'heads/map')]

metainfo = dict(classes=('cat', 'dog'))  # the names of the folders
num_classes = len(metainfo['classes'])
crop_size = (224, 224)  # height, width
resize = dict(scale=(2048, 224), keep_ratio=True)  # long side at most, short side
pack = dict(type='PackLabelInputs', num_classes=num_classes)
train_pipeline = [
    _base_.load_image,
    dict(type='RandomResize', ratio_range=(1.0, 2.0), **resize),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    pack,
]
test_pipeline = [_base_.load_image, dict(type='Resize', **resize), dict(type='CenterCrop', crop_size=crop_size), pack]
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(metainfo=metainfo, pipeline=train_pipeline))))
val_dataloader = dict(dataset=dict(metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(head=dict(num_classes=num_classes))
