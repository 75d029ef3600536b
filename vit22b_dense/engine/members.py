"""Copies of a decoder that learn side by side on the maps of one frozen backbone, each at a rate of its own."""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..datasets.seeding import random_state_of


def train_members(
    model: nn.Module,
    cfg: Config,
    rates: Sequence[float],
    batches: DataLoader,
    seed: int,
    progress: Callable[[int], None],
) -> list[nn.Module]:
    """Train copies of a model's decoder, one at each rate, on the maps of its frozen backbone.

    Where a decoder has a loss at the resolution of its tokens, it is used.

    Args:
        model: with a backbone and, for each copy to start from, a decoder.
        cfg: gives the optimiser, the schedule and the number of iterations.
        rates: one a copy.
        batches: endless.
        seed: of what is random in the decoders, by iteration.
        progress: called with the number of iterations done.

    Returns:
        The copies, whose backbone is one that gives the maps it is told.
    """
    members = [_member(model) for _ in rates]
    wrappers = [_optimizer(member, cfg, rate) for member, rate in zip(members, rates, strict=True)]
    schedules = cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else [cfg.param_scheduler]
    steps = [
        PARAM_SCHEDULERS.build(dict(schedule), default_args=dict(optimizer=wrapper))
        for wrapper in wrappers
        for schedule in schedules
    ]
    for iteration, data in enumerate(batches):
        with torch.no_grad(), wrappers[0].optim_context(model):
            maps = model.backbone(model.data_preprocessor(data, True)['inputs'])
        for member, wrapper in zip(members, wrappers, strict=True):
            member.backbone.maps = maps
            with random_state_of((seed, iteration)):
                member.train_step(data, wrapper)
        for step in steps:
            step.step()
        progress(iteration + 1)
        if iteration + 1 == cfg.train_cfg.max_iters:
            return members


@torch.no_grad()
def score_members(model: nn.Module, members: Sequence[nn.Module], evaluators: Sequence[Evaluator], item: dict) -> None:
    """Let each copy predict an image as it is seen in training, and tell its evaluator.

    Args:
        model: gives the maps.
        members: from `train_members`.
        evaluators: one a copy.
        item: an image and its labels.
    """
    data = model.data_preprocessor(pseudo_collate([item]), True)
    maps, (sample,) = model.backbone(data['inputs']), data['data_samples']
    size = next(iter(_labels(sample).values())).data.shape[-2:]
    for member, evaluator in zip(members, evaluators, strict=True):
        member.backbone.maps = maps
        member.eval()
        fresh = SegDataSample(metainfo=dict(ori_shape=size, img_shape=size, img_path=sample.img_path))
        fresh.set_data(_labels(sample))
        blank = maps[0].new_zeros(()).expand(1, 3, *size)  # only its size is looked at
        evaluator.process(member.predict(blank, [fresh]), data)


def _labels(sample: SegDataSample) -> dict:
    return {name: value for name, value in sample.items() if name.startswith('gt_')}


class _Given(nn.Module):
    """A backbone that gives the maps it is told."""

    num_layers = 0
    maps: tuple[Tensor, ...]

    def forward(self, _: Tensor) -> tuple[Tensor, ...]:
        return self.maps

    def layer_id(self, name: str) -> int:
        raise KeyError(name)


def _member(model: nn.Module) -> nn.Module:
    """A copy of a model with a decoder of its own."""
    backbone, model.backbone = model.backbone, _Given()
    try:
        member = copy.deepcopy(model)
    finally:
        model.backbone = backbone
    member.test_cfg.update(mode='whole')
    if hasattr(member, 'mode'):
        member.mode = 'whole'
    if getattr(member.decode_head, 'plain_loss', False):
        member.decode_head.loss_at = 'tokens'  # faster, and the same rates are good
    return member.train()


def _optimizer(member: nn.Module, cfg: Config, rate: float) -> OptimWrapper:
    settings = copy.deepcopy(cfg.optim_wrapper)
    settings.optimizer.lr = rate
    with quiet():
        return build_optim_wrapper(member, settings)


@contextmanager
def quiet() -> Iterator[None]:
    """Without mmengine's tables of groups and of classes, one a rate."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
