"""What the depth heads share (target, loss, prediction in metres), and the linear one."""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

# Untrained heads answer about 10 m, so that the bias alone need not learn it: log(1 + 10).
START = math.log1p(10)


class DepthHead(BaseModule, ABC):
    """A head that predicts ``log(1 + depth)`` and learns it from sparse depth.

    Shapes: B batch, H, W pixels of the input, h, w tokens.

    Args:
        max_depth: upper bound of the predictions, metres.
        min_depth: lower bound, metres; 0 or more.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: not ``0 <= min_depth < max_depth``.
    """

    # What mmseg's `EncoderDecoder` asks of a head.
    num_classes = out_channels = 1
    align_corners = False

    def __init__(self, max_depth: float, min_depth: float = 1e-3, init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg)
        if not 0 <= min_depth < max_depth:
            raise ValueError(f'min_depth={min_depth} and max_depth={max_depth} must be 0 <= min < max, in metres')
        self.min_depth, self.max_depth = min_depth, max_depth

    @abstractmethod
    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Maps ``(B, D, h, w)`` to ``log(1 + depth)``, ``(B, 1, h', w')`` at the resolution of the head."""

    def loss(
        self, inputs: tuple[Tensor, ...], batch_data_samples: list[SegDataSample], train_cfg: dict | None
    ) -> dict:
        """``loss_depth``, the mean squared error of ``log(1 + depth)`` over the batch's pixels with LiDAR.

        The mean is over all of them at once, on all processes: an image without LiDAR counts for nothing. A batch
        without any gives 0, whose gradient reaches every parameter.

        Args:
            inputs: the backbone's or neck's maps.
            batch_data_samples: each with ``gt_depth_map`` ``(1, H, W)`` in metres, 0 = none.
            train_cfg: unused; mmseg's signature.
        """
        depth = torch.stack([sample.gt_depth_map.data for sample in batch_data_samples])
        predicted = upsample(self(inputs), depth.shape[2:]).float()
        known = (depth > 0) & torch.isfinite(depth)
        count = known.sum().to(predicted)
        # Processes average their gradients, so each divides by the mean number of pixels, not by its own.
        all_reduce(count, 'mean')
        error = torch.where(known, predicted - torch.log1p(torch.where(known, depth, 0)), 0.0)
        return dict(loss_depth=error.square().sum() / torch.where(count > 0, count, 1))

    def predict(self, inputs: tuple[Tensor, ...], batch_img_metas: list[dict], test_cfg: dict | None) -> Tensor:
        """Depth in metres, ``(B, 1, H, W)`` with the size of ``batch_img_metas[0]['img_shape']``."""
        predicted = upsample(self(inputs), tuple(batch_img_metas[0]['img_shape'][:2])).float()
        return torch.expm1(predicted).clamp(self.min_depth, self.max_depth)


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, to a height and width."""
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=False)


@MODELS.register_module()
class LinearDepthHead(DepthHead):
    """One 1x1 convolution on a feature map, then bilinear upsampling of ``log(1 + depth)``.

    Args:
        in_channels: D, the width of the feature map.
        in_index: which of the backbone's maps is read.
        max_depth, min_depth: bounds of the predictions, metres.
        init_cfg: mmengine's initialisation config.

    Source: ViT-22B, arXiv 2302.05442, monocular depth with a linear decoder.
    """

    def __init__(
        self,
        in_channels: int,
        in_index: int = -1,
        max_depth: float = 80.0,
        min_depth: float = 1e-3,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(max_depth, min_depth, init_cfg)
        self.in_index = in_index
        self.conv_depth = nn.Conv2d(in_channels, 1, kernel_size=1)
        nn.init.normal_(self.conv_depth.weight, std=0.01)
        nn.init.constant_(self.conv_depth.bias, START)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Maps ``(B, D, h, w)`` to ``log(1 + depth)``, ``(B, 1, h, w)``."""
        return self.conv_depth(inputs[self.in_index])
