"""The toy street: ray-cast pictures in ADE20K's folders and label values, read as ADE20K with seven of its classes."""

_base_ = ['ade20k.py']

from vit22b_dense.engine.schedule import short_schedule

num_classes = 7
metainfo = dict(classes=('building', 'sky', 'tree', 'road', 'sidewalk', 'person', 'car'))
loading = [_base_.load_image, dict(type='LoadLabels', num_classes=num_classes)]
test_pipeline = [*loading, dict(type='PackSegInputs')]
tta_pipeline = [
    loading[0],
    dict(type='TestTimeAug', transforms=[_base_.factors, _base_.flips, [loading[1]], test_pipeline[-1:]]),
]
crop_size = (224, 224)
inference = dict(_delete_=True, mode='whole')
data_root = '{{$VIT22B_DATA_ROOT:data/toy_street}}'
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    dataset=dict(
        dataset=dict(
            dataset=dict(
                data_root=data_root,
                metainfo=metainfo,
                pipeline=[
                    *loading,
                    dict(type='RandomResize', scale=(320, 224), ratio_range=(1.0, 1.5), keep_ratio=True),
                    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
                    dict(type='RandomFlip', prob=0.5),
                    dict(type='PackSegInputs'),
                ],
            )
        )
    ),
)
val_dataloader = dict(
    num_workers=2,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
max_iters = _base_.max_iters // 320
train_cfg, param_scheduler = short_schedule(max_iters)
