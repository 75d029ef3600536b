"""The toy street with LiDAR, prepared like Waymo's files."""

_base_ = ['waymo_depth.py']

from vit22b_dense.engine.schedule import short_schedule

crop_size = (224, 224)
max_depth = 80.0
data_root = '{{$VIT22B_DATA_ROOT:data/toy_street_depth}}'
# The streets' own light and colours vary more than PhotoMetricDistortion would make them.
train_pipeline = [step for step in _base_.train_pipeline if step['type'] != 'PhotoMetricDistortion']
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    dataset=dict(dataset=dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))),
)
val_dataloader = dict(num_workers=2, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
max_iters = _base_.max_iters // 320
train_cfg, param_scheduler = short_schedule(max_iters)
