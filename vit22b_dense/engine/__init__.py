"""One builder of a run from a config and its axes, and what a run needs around the model."""

from .hooks import AtomicCheckpointHook, CheckpointFitHook, IterationSeedHook
from .layer_decay import LayerDecayConstructor
from .precision import BFloat16OptimWrapper
from .run import DenseRunner

__all__ = [
    'AtomicCheckpointHook', 'BFloat16OptimWrapper', 'CheckpointFitHook', 'DenseRunner', 'IterationSeedHook',
    'LayerDecayConstructor',
]  # fmt: skip
