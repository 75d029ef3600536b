"""Schedules: of short runs, for configs of small data sets, and the reciprocal square root of pretraining."""

import math

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmseg.registry import PARAM_SCHEDULERS

# Of ViT-22B's pretraining, arXiv 2302.05442: iterations in all, of the warm-up, of the cool-down.
PUBLISHED = (177_000, 10_000, 30_000)


def short_schedule(max_iters: int) -> tuple[dict, list[dict]]:
    """One warm-up of a twentieth of the run, linear decay, one validation at the end.

    Args:
        max_iters: iterations of training.

    Returns:
        A config's ``train_cfg`` and ``param_scheduler``.
    """
    warmup = max(2, max_iters // 20)  # after one iteration LinearLR would still be at its start factor
    train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
    param_scheduler = [
        dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=warmup),
        dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=warmup, end=max_iters),
    ]
    return train_cfg, param_scheduler


def pretraining_schedule(max_iters: int) -> tuple[dict, list[dict]]:
    """Linear warm-up, then the reciprocal square root, then linear cool-down to zero, in the published proportions.

    With ``w`` iterations of warm-up, the rate of iteration ``t >= w`` is the ``sqrt(w / t)``-th part of the highest,
    times what the cool-down leaves. One validation at the end.

    Args:
        max_iters: iterations of training.

    Returns:
        A config's ``train_cfg`` and ``param_scheduler``.

    Source: ViT-22B, arXiv 2302.05442 (10k of 177k iterations of warm-up, 30k of cool-down).
    """
    warmup, cooldown = (max(2, round(max_iters * part / PUBLISHED[0])) for part in PUBLISHED[1:])
    common = dict(by_epoch=False, end=max_iters)
    param_scheduler = [
        dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=warmup),
        dict(type='ReciprocalSqrtLR', timescale=warmup, begin=warmup, **common),
        dict(type='LinearLR', start_factor=1.0, end_factor=0.0, begin=max_iters - cooldown, **common),
    ]
    return dict(max_iters=max_iters, val_interval=max_iters), param_scheduler


@PARAM_SCHEDULERS.register_module()
class ReciprocalSqrtLR(LRSchedulerMixin, _ParamScheduler):
    """Multiplies the learning rate by ``sqrt(timescale / (timescale + t))``, with t the steps since ``begin``.

    Behind a warm-up of ``timescale`` steps that is ``sqrt(timescale / step)``. It can be chained with others.

    Args:
        optimizer: the optimiser or its wrapper.
        timescale: steps, above 0.
        begin, end, last_step, by_epoch, verbose: as in mmengine.

    Raises:
        ValueError: a ``timescale`` that is not above 0.

    Source: Scaling ViT, arXiv 2106.04560, appendix (reciprocal square-root schedule, cool-down).
    """

    def __init__(self, optimizer: object, timescale: float, **options: object) -> None:
        if timescale <= 0:
            raise ValueError(f'timescale={timescale} must be above 0')
        self.timescale = timescale
        super().__init__(optimizer, **options)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return [group[self.param_name] for group in self.optimizer.param_groups]
        now = self.timescale + self.last_step
        return [group[self.param_name] * math.sqrt((now - 1) / now) for group in self.optimizer.param_groups]
