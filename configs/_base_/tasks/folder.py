"""Images and label maps in two folders: what data sets of your own share; see configs/own_data/linear.py.

DATA_ROOT/images/{train,val}/NAME.{jpg,png,...} and DATA_ROOT/annotations/{train,val}/NAME.png
"""

_base_ = ['segmentation.py']

inference = dict(_delete_=True, mode='whole')
dataset = dict(
    type='FolderSegDataset',
    data_root='{{$VIT22B_DATA_ROOT:data}}',
    data_prefix=dict(img_path='images', seg_map_path='annotations'),
)
loading = [dict(type='LoadImage'), dict(type='LoadLabels')]
train_dataloader = dict(batch_size=8, dataset=dict(dataset=dict(dataset=dict(**dataset, split='train'))))
val_dataloader = dict(dataset=dict(**dataset, split='val', pipeline=[*loading, dict(type='PackSegInputs')]))
test_dataloader = val_dataloader
max_iters = _base_.max_iters // 200
warmup = max(2, max_iters // 20)  # after one iteration LinearLR would still be at its start factor
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=warmup),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=warmup, end=max_iters),
]
