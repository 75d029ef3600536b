"""The toy street with LiDAR, prepared like Waymo's files."""

_base_ = ['waymo_depth.py']

crop_size = (224, 224)
max_depth = 80.0
data_root = '{{$VIT22B_DATA_ROOT:data/toy_street_depth}}'
train_dataloader = dict(batch_size=4, num_workers=2, dataset=dict(dataset=dict(dataset=dict(data_root=data_root))))
val_dataloader = dict(num_workers=2, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
max_iters = _base_.max_iters // 250
warmup = max(2, max_iters // 20)  # after one iteration LinearLR would still be at its start factor
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=warmup),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=warmup, end=max_iters),
]
