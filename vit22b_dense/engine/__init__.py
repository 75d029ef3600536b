"""What a run needs around the model: optimiser groups, checkpoints, reproducibility."""

from .checkpoints import AtomicCheckpointHook, CheckpointFitHook
from .layer_decay import LayerDecayConstructor
from .reproducible import IterationSeedHook

__all__ = ['AtomicCheckpointHook', 'CheckpointFitHook', 'IterationSeedHook', 'LayerDecayConstructor']
