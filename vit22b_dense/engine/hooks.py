"""Hooks of a run: checkpoints that are whole, fit and hold what was trained; random state by iteration."""

from collections.abc import Mapping
from pathlib import Path

from mmengine.dist import get_rank, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ..checkpoint import check_finite, check_fit
from ..checkpoint.reading import DISTRIBUTED
from ..datasets.seeding import seed_random_state
from ..evaluation.companions import summary
from ..files import remove, write_atomically
from .model import unwrapped
from .restore import META, complete, reference_of, trained_alone
from .work_dir import find_checkpoint

LAST = 50  # iterations whose mean is the training loss at the end


def training_loss(scalars: object) -> float | None:
    """The training loss at the end: the mean over the `LAST` iterations that a message hub has seen.

    Args:
        scalars: the hub's ``log_scalars``, its own or from a checkpoint; None is returned where it has no losses.
    """
    history = scalars.get('train/loss') if isinstance(scalars, Mapping) else None
    return float(history.mean(LAST)) if isinstance(history, HistoryBuffer) and len(history.data[0]) else None


@register_backend('atomic', force=True)
class AtomicBackend(LocalBackend):
    """The local file backend, with files written under a temporary name and then renamed."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; see `write_atomically`."""
        write_atomically(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text; see `write_atomically`."""
        write_atomically(filepath, obj.encode(encoding))


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's `CheckpointHook` for checkpoints that are whole, and hold of a frozen model what was trained.

    mmengine writes under the final name, and removes the oldest checkpoint before the new one is there. Of a frozen
    backbone a checkpoint has a `Reference` in its meta, so its size does not depend on the backbone.

    Args:
        interval: iterations between two checkpoints.
        by_epoch: whether ``interval`` counts epochs instead.
        max_keep_ckpts: how many are kept; -1 for all.
        save_best: a metric's name to keep the best checkpoint of, as for `CheckpointHook`.
        rule: ``'greater'`` or ``'less'``, for ``save_best``.
        save_last: whether the last iteration is saved in any case.
    """

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = False,
        max_keep_ckpts: int = 2,
        save_best: str | list[str] | None = None,
        rule: str | list[str] | None = None,
        save_last: bool = True,
    ) -> None:
        super().__init__(
            interval=interval,
            by_epoch=by_epoch,
            max_keep_ckpts=max_keep_ckpts,
            save_best=save_best,
            rule=rule,
            save_last=save_last,
            backend_args=dict(backend='atomic'),
        )
        self.reference = None

    def before_train(self, runner: Runner) -> None:
        """Also find out what the checkpoints will refer to, before time is spent on training."""
        super().before_train(runner)
        self.filename_tmpl = str(Path(self.filename_tmpl).with_suffix(getattr(runner, 'checkpoint_suffix', '.pth')))
        self.reference = reference_of(unwrapped(runner.model)) if is_main_process() else None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the reference beside the weights, which are not saved if they are no numbers any more."""
        check_finite(
            checkpoint['state_dict'], f'weights of iteration {checkpoint["meta"]["iter"]}, which are not saved'
        )
        if self.reference is not None:
            checkpoint['meta'][META] = self.reference.to_dict()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Also log the main score of the checkpoint that was validated, and the training loss up to there."""
        super().after_val_epoch(runner, metrics)
        step = runner.epoch if self.by_epoch else runner.iter
        if metrics and self.last_ckpt is not None and Path(self.last_ckpt).name == self.filename_tmpl.format(step):
            loss = training_loss(runner.message_hub.log_scalars)
            told = '' if loss is None else f'; training loss {loss:.4g}'
            runner.logger.info(f'{Path(self.last_ckpt).name}: {summary(metrics)}{told}')

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with trained_alone(unwrapped(runner.model), self.reference):
            super()._save_best_checkpoint(runner, metrics)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = None
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        with trained_alone(unwrapped(runner.model), self.reference):
            runner.save_checkpoint(
                self.out_dir,
                name,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
            )
        if is_main_process():
            write_atomically(Path(runner.work_dir, 'last_checkpoint'), self.last_ckpt)
            if outdated is not None:
                for suffix in ('.pth', DISTRIBUTED):  # a run may go on in another number of processes
                    remove(Path(self.out_dir, outdated).with_suffix(suffix))


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Finds the weights that a checkpoint refers to, and refuses one that does not fit the model.

    mmengine would load what happens to fit. It runs before the other hooks that look at a checkpoint.

    Args:
        allow_partial: load what fits by name and shape, and say how much that was. With the configs here:
            ``--cfg-options default_hooks.checkpoint_fit.allow_partial=True``.

    Raises:
        CheckpointError: when a checkpoint is loaded that does not fit (it lists both sides), or whose backbone is not
            found.
    """

    priority = 'VERY_HIGH'

    def __init__(self, allow_partial: bool = False) -> None:
        self.allow_partial = allow_partial

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Complete and check before the runner copies the weights into the model."""
        model = unwrapped(runner.model)
        source = runner._load_from or find_checkpoint(runner.work_dir)
        state = check_fit(model, complete(model, checkpoint, source), source, allow_partial=self.allow_partial)
        check_finite(state, source)
        checkpoint['state_dict'] = state


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Reseeds Python, NumPy and PyTorch at every training iteration.

    mmengine saves no random state, and saving it would not be enough: a data loader, also that of a validation
    between two iterations, draws from the global generators. With a state that depends on (seed, rank,
    iteration) alone, a resumed run draws the same dropout and drop path as one that was never interrupted.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Seed; the batch has been read by now."""
        rank, _ = getattr(runner, 'data_rank', (get_rank(), None))
        seed_random_state((runner.seed, rank, runner.iter))
