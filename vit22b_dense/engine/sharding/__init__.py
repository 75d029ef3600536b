"""Models that no single device holds: sharded over processes, trained, tested and stored by all of them."""

from .optimizer import ShardedOptimWrapper
from .runner import ShardedCachedRunner, ShardedRunner
from .strategy import FSDP2Strategy
from .weights import without_memory

__all__ = ['FSDP2Strategy', 'ShardedCachedRunner', 'ShardedOptimWrapper', 'ShardedRunner', 'without_memory']
