"""Hooks that stop a run before it wastes its time: data that are not all there, losses that are no numbers."""

import math
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch.utils.data import DataLoader

from ..datasets.complete import check_complete
from ..errors import UserError
from .work_dir import find_checkpoint


class DivergedError(UserError):
    """A training whose loss is no number any more."""


@HOOKS.register_module()
class CompleteDataHook(Hook):
    """Looks for all files of the data sets before the first is read; see `check_complete`."""

    def before_run(self, runner: Runner) -> None:
        """Check the data of each loop that has been built."""
        for name in ('_train_loop', '_val_loop', '_test_loop'):
            loader = getattr(getattr(runner, name, None), 'dataloader', None)
            if isinstance(loader, DataLoader):
                check_complete(loader.dataset)


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops a training at the first loss that is NaN or infinite.

    The weights are lost by then, so nothing is saved; the last checkpoint is from before.
    """

    priority = 'VERY_HIGH'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Look at the losses of an iteration, which mmengine has read for its log in any case."""
        losses = {name: torch.as_tensor(value).item() for name, value in (outputs or {}).items() if 'loss' in name}
        wrong = {name: value for name, value in losses.items() if not math.isfinite(value)}
        if wrong:
            last = find_checkpoint(runner.work_dir)
            saved = f'The last checkpoint, {last}, is from before' if last else 'There is no checkpoint yet'
            raise DivergedError(
                f'iteration {runner.iter + 1}: {", ".join(f"{name} is {value}" for name, value in wrong.items())}; '
                f'the training stops. {saved}. Lower the learning rate (--cfg-options '
                'optim_wrapper.optimizer.lr=…), clip the gradients (optim_wrapper.clip_grad), or look for the cause '
                'in the data'
            )
