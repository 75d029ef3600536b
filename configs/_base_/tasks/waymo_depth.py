"""Waymo Open v2, as tools/prepare_waymo.py leaves it: sparse LiDAR depth at 224 px, as in ViT-22B, arXiv 2302.05442.

Scores are at the original resolution.
"""

_base_ = ['depth.py']

crop_size = (224, 224)
max_depth = 80.0
dataset = dict(type='WaymoDepthDataset', data_root='{{$VIT22B_DATA_ROOT:data/waymo}}', cameras=['FRONT'])
loading = [_base_.load_image, dict(type='LoadSparseDepth')]
resize = dict(type='DepthResize', scale=(2048, 224), keep_ratio=True)
test_pipeline = [loading[0], resize, loading[1], dict(type='PackDepthInputs')]
tta_pipeline = [
    *test_pipeline[:2],
    dict(type='TestTimeAug', transforms=[_base_.flips, [loading[1]], test_pipeline[-1:]]),
]
train_pipeline = [*loading, resize, dict(type='DepthRandomCrop', crop_size=crop_size), *_base_.augmentation]
train_data = dict(data_prefix=dict(img_path='training'))
val_data = dict(data_prefix=dict(img_path='validation'))
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(**dataset, **train_data, pipeline=train_pipeline))))
val_dataloader = dict(dataset=dict(**dataset, **val_data, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(max_depth=max_depth, distances=(0, 20, 40, 80))
test_evaluator = val_evaluator
