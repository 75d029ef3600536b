"""The random state of a run, as a function of seed, process and iteration."""

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ..datasets.seeding import seed_random_state


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seeds Python, NumPy and PyTorch anew at every training iteration.

    mmengine saves no random state, and saving it would not be enough: a data loader, also that of a validation
    between two iterations, draws from the global generators. With a state that depends on (seed, rank,
    iteration) alone, a resumed run draws the same dropout and drop path as one that was never interrupted.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Seed; the batch has been read by now."""
        seed_random_state((runner.seed, get_rank(), runner.iter))
