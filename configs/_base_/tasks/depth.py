"""What the depth data sets share; a task file adds where its data lies and how far it sees.

Pictures are never scaled at random: the size of things tells their distance.
"""

_base_ = ['../runtime.py']

augmentation = [
    dict(type='DepthRandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDepthInputs'),
]
inference = dict(mode='whole')
tta_model = dict(type='DepthTTAModel')
val_evaluator = dict(type='SparseDepthMetric')
test_evaluator = val_evaluator
