"""One builder of a run from a config and its axes, and what a run needs around the model."""

from .features import CachedRunner
from .guards import CompleteDataHook, FiniteLossHook
from .hooks import AtomicCheckpointHook, CheckpointFitHook, IterationSeedHook
from .layer_decay import LayerDecayConstructor
from .precision import BFloat16OptimWrapper
from .run import DenseRunner
from .schedule import ReciprocalSqrtLR
from .sharding import FSDP2Strategy, ShardedCachedRunner, ShardedOptimWrapper, ShardedRunner
from .stability import StabilityHook
from .timed_logger import TimedLoggerHook

__all__ = [
    'AtomicCheckpointHook', 'BFloat16OptimWrapper', 'CachedRunner', 'CheckpointFitHook', 'CompleteDataHook',
    'DenseRunner', 'FSDP2Strategy', 'FiniteLossHook', 'IterationSeedHook', 'LayerDecayConstructor',
    'ReciprocalSqrtLR', 'ShardedCachedRunner', 'ShardedOptimWrapper', 'ShardedRunner', 'StabilityHook',
    'TimedLoggerHook',
]  # fmt: skip
