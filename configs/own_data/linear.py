"""Images and labels of your own, linear decoder. Copy this file to where you like, and change the copy.

DATA_ROOT/images/{train,val}/NAME.{jpg,png,...} and DATA_ROOT/annotations/{train,val}/NAME.png: 8-bit label maps of
class numbers 0, 1, ...; 255 is ignored.

vit22b-dense train my_data.py --backbone vit22b_tiny --regime scratch --data-root DATA_ROOT
"""

# Parts that come with the package, wherever it is installed; heads/upernet is another decoder.
_base_ = [f'{__import__("vit22b_dense").CONFIGS}/_base_/{n}.py' for n in ('tasks/folder', 'heads/linear')]

metainfo = dict(classes=('sky', 'building', 'road', 'car'))  # by label value; palette=[[70, 130, 180], ...] too
resize = dict(scale=(896, 224), keep_ratio=True)  # long side at most, short side; scores are at the images' own size
crop_size = (224, 224)  # of training: height, width
max_iters = 5 * _base_.max_iters  # 2000 of 8 crops each; 125 with --fraction 1/16

load_image, load_labels = _base_.loading
train_pipeline = [
    *_base_.loading,
    dict(type='RandomResize', ratio_range=(0.75, 2.0), **resize),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    *_base_.augmentation[2:],
]
test_pipeline = [load_image, dict(type='Resize', **resize), load_labels, dict(type='PackSegInputs')]
scales = [dict(type='Resize', **dict(resize, scale=(round(896 * r), round(224 * r)))) for r in _base_.ratios]
tta_pipeline = [
    load_image,
    dict(type='TestTimeAug', transforms=[scales, _base_.flips, [load_labels], test_pipeline[-1:]]),
]
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(metainfo=metainfo, pipeline=train_pipeline))))
val_dataloader = dict(dataset=dict(metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader  # on images/test: --cfg-options test_dataloader.dataset.split=test
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 4)
linear, poly = _base_.param_scheduler
param_scheduler = [dict(linear, end=max_iters // 20), dict(poly, begin=max_iters // 20, end=max_iters)]
model = dict(
    data_preprocessor=dict(size=crop_size),
    decode_head=dict(num_classes=len(metainfo['classes'])),
    test_cfg=_base_.inference,
)
