"""What the depth data sets share; a task file adds where its data lies and how far it sees.

Pictures are never scaled at random: the size of things tells their distance.
"""

_base_ = ['../schedule.py']

inference = dict(mode='whole')
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='SeededInfiniteSampler', shuffle=True),
    dataset=dict(
        type='SeededDataset',
        dataset=dict(type='FewShotSubset', fraction=_base_.fraction, seed=int('{{$VIT22B_SEED:0}}')),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='SparseDepthMetric')
test_evaluator = val_evaluator
