"""Images with labels, see configs/pretrain/folder.py, and the published pretraining's schedule."""

_base_ = ['../runtime.py']

from vit22b_dense.engine.schedule import pretraining_schedule

dataset = dict(
    type='LabelledImages',
    data_root='{{$VIT22B_DATA_ROOT:data}}',
    data_prefix=dict(img_path=''),
)
max_iters = _base_.max_iters
train_dataloader = dict(
    batch_size=64,
    dataset=dict(dataset=dict(dataset=dict(**dataset, split='train'))),
)
val_dataloader = dict(batch_size=16, dataset=dict(**dataset, split='val'))
test_dataloader = val_dataloader
train_cfg, param_scheduler = pretraining_schedule(max_iters)
val_evaluator = dict(type='MultiLabelMetric')
test_evaluator = val_evaluator
# there is nothing to draw
default_hooks = dict(_delete_=True, **{k: v for k, v in _base_.default_hooks.items() if k != 'visualization'})
visualizer = dict(type='Visualizer')
