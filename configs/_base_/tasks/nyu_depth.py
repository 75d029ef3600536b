"""NYU Depth v2: Eigen crop, 10 m cap, 24,231 training and 654 test images, as lists of depth papers name them.

Folders and lists as with BTS (arXiv 1907.10326). Where all scenes lie in one folder, name it in each data_prefix.
"""

_base_ = ['depth.py']

crop_size = (448, 560)
max_depth = 10.0
dataset = dict(type='NYUDepthDataset', data_root='{{$VIT22B_DATA_ROOT:data/nyu}}')
loading = [_base_.load_image, dict(type='LoadDepthPNG', scale=1000.0)]
test_pipeline = [*loading, dict(type='PackDepthInputs')]
tta_pipeline = [
    loading[0],
    dict(type='TestTimeAug', transforms=[_base_.flips, [loading[1]], test_pipeline[-1:]]),
]
train_pipeline = [*loading, dict(type='DepthRandomCrop', crop_size=crop_size), *_base_.augmentation]
train_data = dict(data_prefix=dict(img_path='sync', depth_path='sync'), ann_file='nyu_train.txt')
val_data = dict(
    data_prefix=dict(img_path='official_splits/test', depth_path='official_splits/test'), ann_file='nyu_test.txt'
)
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(**dataset, **train_data, pipeline=train_pipeline))))
val_dataloader = dict(dataset=dict(**dataset, **val_data, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(max_depth=max_depth, crop='nyu', average='image', distances=(0, 2, 4, 10))
test_evaluator = val_evaluator
