"""How long a run is (the fraction says), its learning rate over time, and when it is validated."""

_base_ = ['fractions/{{$VIT22B_FRACTION:1}}.py']

train_cfg = dict(type='IterBasedTrainLoop', max_iters=_base_.max_iters, val_interval=_base_.max_iters // 10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=_base_.max_iters // 20),
    dict(
        type='PolyLR',
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=_base_.max_iters // 20,
        end=_base_.max_iters,
    ),
]
