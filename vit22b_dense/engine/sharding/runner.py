"""mmengine's `FlexibleRunner` for runs of a sharded model."""

from typing import Any

from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.evaluator import Evaluator
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner
from torch import nn
from torch.utils.data import DataLoader

from ...checkpoint.reading import DISTRIBUTED
from ...errors import UserError
from ..checked import CheckedRun
from ..features.runner import FromFeatures
from ..hooks import CheckpointFitHook
from .mesh import data_rank_of, from_first, repeats_another


@RUNNERS.register_module()
class ShardedRunner(CheckedRun, FlexibleRunner):
    """`FlexibleRunner` with an `FSDP2Strategy`: data, seeds and evaluation by the data-parallel rank.

    Processes that share the products of a block (tensor parallelism) have the same data and the same random state, and
    one of them counts in the evaluation.
    """

    checkpoint_suffix = DISTRIBUTED

    @property
    def data_rank(self) -> tuple[int, int]:
        """Which part of the data is this process's, of how many."""
        return data_rank_of(self.strategy.mesh)

    def build_dataloader(
        self, dataloader: dict | DataLoader, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """mmengine's, with the data of this process.

        Raises:
            UserError: a sampler that it cannot be told, or that gives processes different numbers of samples.
        """
        loader = CheckedRun.build_dataloader(dataloader, seed, diff_rank_seed)
        sampler = loader.sampler
        if not isinstance(sampler, DefaultSampler | InfiniteSampler) or not getattr(sampler, 'round_up', True):
            raise UserError(
                f'--strategy fsdp2: cannot share out data by {type(sampler).__name__}; take SeededInfiniteSampler, '
                'InfiniteSampler, or DefaultSampler with round_up=True'
            )
        sampler.rank, sampler.world_size = rank, world = self.data_rank
        if isinstance(sampler, DefaultSampler):
            sampler.num_samples = -(-len(sampler.dataset) // world)
            sampler.total_size = sampler.num_samples * world
        if loader.worker_init_fn is not None and 'rank' in getattr(loader.worker_init_fn, 'keywords', {}):
            loader.worker_init_fn.keywords['rank'] = rank
        return loader

    def build_evaluator(self, evaluator: Any) -> Evaluator:
        """mmengine's, which counts every image once."""
        evaluator = super().build_evaluator(evaluator)
        for metric in evaluator.metrics:
            metric.data_rank = self.data_rank
        if repeats_another(self.strategy.mesh):
            evaluator.process = lambda *_, **__: None
        return evaluator

    def find_latest(self) -> str | None:
        """The checkpoint to resume, as the first process sees it."""
        return from_first(super().find_latest())

    def train(self) -> nn.Module:
        """Train; weights that a checkpoint brings are not drawn or read before."""
        self.strategy.must_fill = self._needs_weights()
        return super().train()

    def prepare_test(self) -> None:
        """Build the model, as `test` would, which it then finds built."""
        self.strategy.must_fill = self._needs_weights()
        self.strategy.prepare(self.model)
        self.model = self.strategy.model

    def _needs_weights(self) -> bool:
        partial = any(isinstance(hook, CheckpointFitHook) and hook.allow_partial for hook in self.hooks)
        loads = self._load_from is not None or (self._resume and self.find_latest() is not None)
        return partial or not loads


@RUNNERS.register_module()
class ShardedCachedRunner(FromFeatures, ShardedRunner):
    """`ShardedRunner` for the regime ``cached``."""
