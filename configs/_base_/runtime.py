"""What every run shares: its length for each fraction, how data is loaded, logging, checkpoints, pictures."""

fraction = '{{$VIT22B_FRACTION:1}}'.replace('_', '/')
# the iterations that go with each fraction of the training data (InternVL's published protocol, arXiv 2312.14238)
max_iters = {'1': 80000, '1/2': 40000, '1/4': 20000, '1/8': 10000, '1/16': 5000}[fraction]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters // 10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=max_iters // 20),
    dict(
        type='PolyLR',
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=max_iters // 20,
        end=max_iters,
    ),
]

# A seeded endless stream of a few-shot subset for training, one image at a time for testing.
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='SeededInfiniteSampler', shuffle=True),
    dataset=dict(
        type='SeededDataset',
        dataset=dict(type='FewShotSubset', fraction=fraction, seed=int('{{$VIT22B_SEED:0}}')),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
load_image = dict(type='LoadImageFromFile', _scope_='vit22b_dense')
flips = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]  # of test-time augmentation

custom_imports = dict(imports=['vit22b_dense'], allow_failed_imports=False)
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
randomness = dict(seed=int('{{$VIT22B_SEED:0}}'))
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
visualizer = dict(type='SegPanelVisualizer', name='visualizer', vis_backends=[dict(type='LocalVisBackend')])
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='TimedLoggerHook', interval=50, seconds=10, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='AtomicCheckpointHook', interval=1000),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
    iteration_seed=dict(type='IterationSeedHook'),
    checkpoint_fit=dict(type='CheckpointFitHook'),
    complete_data=dict(type='CompleteDataHook'),
    finite_loss=dict(type='FiniteLossHook'),
    stability=dict(type='StabilityHook', interval=50),
)
