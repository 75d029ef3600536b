"""One builder of a run from a config and its axes, and what a run needs around the model."""

from .features import CachedRunner
from .hooks import AtomicCheckpointHook, CheckpointFitHook, IterationSeedHook
from .layer_decay import LayerDecayConstructor
from .precision import BFloat16OptimWrapper
from .run import DenseRunner
from .timed_logger import TimedLoggerHook

__all__ = [
    'AtomicCheckpointHook', 'BFloat16OptimWrapper', 'CachedRunner', 'CheckpointFitHook', 'DenseRunner',
    'IterationSeedHook', 'LayerDecayConstructor', 'TimedLoggerHook',
]  # fmt: skip
