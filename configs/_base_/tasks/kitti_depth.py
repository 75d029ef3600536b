"""KITTI's annotated depth maps: Garg crop, 80 m cap, scores at the original resolution."""

_base_ = ['depth.py']

import mmengine

patch = mmengine.Config.fromfile('{{fileDirname}}/../backbones/{{$VIT22B_BACKBONE:vit22b_base}}.py').patch_size
crop_size = (round(350 / patch) * patch, round(700 / patch) * patch)
max_depth = 80.0
dataset = dict(type='KITTIDepthDataset', data_root='{{$VIT22B_DATA_ROOT:data/kitti}}')
loading = [_base_.load_image, dict(type='LoadDepthPNG')]
test_pipeline = [*loading, dict(type='PackDepthInputs')]
tta_pipeline = [
    loading[0],
    dict(type='TestTimeAug', transforms=[_base_.flips, [loading[1]], test_pipeline[-1:]]),
]
train_pipeline = [*loading, dict(type='DepthRandomCrop', crop_size=crop_size), *_base_.augmentation]
train_data = dict(data_prefix=dict(img_path='raw', depth_path='data_depth_annotated/train'))
val_data = dict(data_prefix=dict(img_path='raw', depth_path='data_depth_annotated/val'))
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(**dataset, **train_data, pipeline=train_pipeline))))
val_dataloader = dict(dataset=dict(**dataset, **val_data, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(max_depth=max_depth, crop='garg', average='image', distances=(0, 20, 40, 80))
test_evaluator = val_evaluator
