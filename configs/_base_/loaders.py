"""How data is loaded: a seeded endless stream of a few-shot subset for training, one image at a time for testing."""

_base_ = ['schedule.py']

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
load_image = dict(type='LoadImageFromFile', _scope_='vit22b_dense')
flips = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]  # of test-time augmentation
