"""What every run shares: registration, logging, checkpoints, reproducibility, pictures."""

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
)
