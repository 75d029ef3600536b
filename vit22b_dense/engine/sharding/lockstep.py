"""Forward passes in step: a sharded block is gathered by all processes at once, so all must run it equally often.

In testing they would not: images have different numbers of windows. A process that has finished its image runs the
backbone on next to nothing until all others have finished theirs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from mmengine.device import get_device
from torch import nn

SIDE = 4  # patches of the image that is run without need


class Lockstep:
    """Keeps the backbones of all processes in step while they do steps of different length.

    Args:
        backbone: sharded; it must run on every process of the run.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone, self.on = backbone, False
        backbone.register_forward_pre_hook(self._before, prepend=True)  # before it is gathered itself

    @contextmanager
    def step(self) -> Iterator[None]:
        """Some images, on each process any number; every process must take equally many steps."""
        self.on = True
        try:
            yield
            while self._anybody(False):
                self.on = False
                self._idle()
                self.on = True
        finally:
            self.on = False

    def _before(self, *_: object) -> None:
        if self.on:
            self._anybody(True)

    def _anybody(self, runs: bool) -> bool:
        """Whether any process is about to run the backbone."""
        flag = torch.tensor(int(runs), device=get_device())
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    @torch.no_grad()
    def _idle(self) -> None:
        side = SIDE * self.backbone.patch_size
        self.backbone(torch.zeros(1, 3, side, side, device=get_device()))
