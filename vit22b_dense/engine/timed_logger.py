"""Log lines by time, so that a slow run is not silent for minutes."""

import time
from typing import Any

from mmengine.hooks import LoggerHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS


@HOOKS.register_module()
class TimedLoggerHook(LoggerHook):
    """mmengine's `LoggerHook` that also logs the first iteration, and the next one when some time has passed.

    Args:
        seconds: without a line after which the next iteration is logged, in training, validation and testing.
        options: of `LoggerHook`; after ``interval`` iterations a line is logged in any case.
    """

    def __init__(self, seconds: float = 10.0, **options: Any) -> None:
        super().__init__(**options)
        self.seconds = seconds
        self.logged: float | None = None  # when, by the monotonic clock; None before the first line of a loop

    def before_train(self, runner: Runner) -> None:
        """Log the first iteration, also that of a resumed run."""
        self.logged = None

    def before_val(self, runner: Runner) -> None:
        """Log the first image."""
        self.logged = None

    def before_test(self, runner: Runner) -> None:
        """Log the first image."""
        self.logged = None

    def every_n_inner_iters(self, batch_idx: int, n: int) -> bool:
        """Whether an iteration is logged."""
        now = time.monotonic()
        due = self.logged is None or now - self.logged >= self.seconds or super().every_n_inner_iters(batch_idx, n)
        if due:
            self.logged = now
        return due
