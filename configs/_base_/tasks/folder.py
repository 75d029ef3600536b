"""Images and label maps in two folders: what data sets of your own share; see configs/own_data/linear.py.

DATA_ROOT/images/{train,val}/NAME.{jpg,png,...} and DATA_ROOT/annotations/{train,val}/NAME.png
"""

_base_ = ['segmentation.py']

from vit22b_dense.engine.schedule import short_schedule

inference = dict(_delete_=True, mode='whole')
dataset = dict(
    type='FolderSegDataset',
    data_root='{{$VIT22B_DATA_ROOT:data}}',
    data_prefix=dict(img_path='images', seg_map_path='annotations'),
)
loading = [_base_.load_image, dict(type='LoadLabels')]
test_pipeline = [*loading, dict(type='PackSegInputs')]
tta_pipeline = [
    loading[0],
    dict(type='TestTimeAug', transforms=[_base_.factors, _base_.flips, [loading[1]], test_pipeline[-1:]]),
]
train_dataloader = dict(batch_size=8, dataset=dict(dataset=dict(dataset=dict(**dataset, split='train'))))
val_dataloader = dict(dataset=dict(**dataset, split='val', pipeline=test_pipeline))
test_dataloader = val_dataloader
max_iters = _base_.max_iters // 200
train_cfg, param_scheduler = short_schedule(max_iters)
