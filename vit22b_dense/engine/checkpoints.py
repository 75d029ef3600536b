"""Checkpoints of a run: never half-written, never loaded in part without being asked."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner, find_latest_checkpoint
from mmseg.registry import HOOKS

from ..checkpoint import check_fit, fitting_part, state_dict_of
from ..files import write_atomically


@register_backend('atomic', force=True)
class AtomicBackend(LocalBackend):
    """The local file backend, with files written beside and then renamed."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; see `write_atomically`."""
        write_atomically(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text; see `write_atomically`."""
        write_atomically(filepath, obj.encode(encoding))


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's `CheckpointHook` that a kill at any moment leaves with a whole last checkpoint.

    mmengine writes under the final name, and removes the oldest checkpoint before the new one is there.

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
                Path(self.out_dir, outdated).unlink(missing_ok=True)


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Refuses a checkpoint that does not fit the model, where mmengine would load what happens to fit.

    Args:
        allow_partial: load what fits by name and shape, and say how much that was. With the configs here:
            ``--cfg-options default_hooks.checkpoint_fit.allow_partial=True``.

    Raises:
        CheckpointError: when a checkpoint is loaded that does not fit; it lists both sides.
    """

    def __init__(self, allow_partial: bool = False) -> None:
        self.allow_partial = allow_partial

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check before the runner copies the weights into the model."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        source = runner._load_from or find_latest_checkpoint(runner.work_dir)
        state = state_dict_of(checkpoint)
        if self.allow_partial:
            checkpoint['state_dict'] = fitting_part(model, state, source)
        else:
            check_fit(model, state, source)
