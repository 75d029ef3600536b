"""The DPT decoder: one feature map (or four) becomes four scales, which are fused from coarse to fine."""

import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from .depth import START, DepthHead

FACTORS = (4, 2, 1, 0.5)


class ReassembleLayer(nn.Module):
    """A token map to one scale: 1x1 projection, then a strided (transposed) convolution."""

    def __init__(self, in_channels: int, channels: int, factor: float) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, channels, kernel_size=1)
        if factor > 1:
            self.resize = nn.ConvTranspose2d(channels, channels, kernel_size=int(factor), stride=int(factor))
        elif factor < 1:
            self.resize = nn.Conv2d(channels, channels, kernel_size=3, stride=int(1 / factor), padding=1)
        else:
            self.resize = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D, h, w)`` to ``(B, C, ceil(factor h), ceil(factor w))``."""
        return self.resize(self.projection(x))


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions with activation in front, added to their input."""

    def __init__(self, channels: int, batch_norm: bool) -> None:
        super().__init__()
        for i in (1, 2):
            self.add_module(f'convolution{i}', nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_norm))
            self.add_module(f'batch_norm{i}', nn.BatchNorm2d(channels) if batch_norm else nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same."""
        y = self.batch_norm1(self.convolution1(F.relu(x)))
        return x + self.batch_norm2(self.convolution2(F.relu(y)))


class FusionLayer(nn.Module):
    """Add a finer map to the running one, refine, double the size. The coarsest layer has nothing to add to."""

    def __init__(self, channels: int, batch_norm: bool, first: bool) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, channels, kernel_size=1)
        if not first:
            self.residual_layer1 = ResidualUnit(channels, batch_norm)
        self.residual_layer2 = ResidualUnit(channels, batch_norm)

    def forward(self, x: Tensor, finer: Tensor | None) -> Tensor:
        """``(B, C, h, w)`` to ``(B, C, 2h, 2w)``; ``finer`` may lack the last row or column, which is dropped then."""
        if finer is not None:
            height, width = finer.shape[2:]  # halving has rounded up
            x = x[..., :height, :width] + self.residual_layer1(finer)
        return self.projection(double(self.residual_layer2(x)))


def double(x: Tensor) -> Tensor:
    """Bilinear, to twice the size. Aligned corners, which DPT usually has, would stretch the map by up to a token."""
    return F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)


@MODELS.register_module()
class DPTDepthHead(DepthHead):
    """DPT's decoder on one map, used for all four scales, or on four.

    Names and shapes of the weights are those of transformers' ``DPTNeck`` and ``DPTDepthEstimationHead``, but for
    the coarsest fusion layer's ``residual_layer1``, which transformers holds and never uses (it would stop a
    distributed run). There is no ReLU behind the last convolution: where it is 0, no gradient would come back. Maps
    are doubled without aligned corners, which would shift what lies at the border by half a patch.

    Args:
        in_channels: D, the width of the maps.
        max_depth, min_depth: bounds of the predictions, metres.
        channels: C, the width of the fusion.
        post_process_channels: widths of the four scales, finest first.
        batch_norm: in the fusion's residual units. Off by default: a batch of one then trains like any other.
        init_cfg: mmengine's initialisation config.

    Source: DPT, arXiv 2103.13413; on one map as in ViT-22B, arXiv 2302.05442, monocular depth.
    """

    def __init__(
        self,
        in_channels: int,
        max_depth: float = 80.0,
        min_depth: float = 1e-3,
        channels: int = 256,
        post_process_channels: tuple[int, ...] = (96, 192, 384, 768),
        batch_norm: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(max_depth, min_depth, init_cfg)
        if len(post_process_channels) != len(FACTORS):
            raise ValueError(f'post_process_channels={post_process_channels}: give four widths')
        self.reassemble_stage = nn.Module()
        self.reassemble_stage.layers = nn.ModuleList(
            ReassembleLayer(in_channels, width, factor)
            for width, factor in zip(post_process_channels, FACTORS, strict=True)
        )
        self.convs = nn.ModuleList(nn.Conv2d(w, channels, 3, padding=1, bias=False) for w in post_process_channels)
        self.fusion_stage = nn.Module()
        self.fusion_stage.layers = nn.ModuleList(FusionLayer(channels, batch_norm, first=i == 0) for i in range(4))
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode='bilinear', align_corners=False),
            nn.Conv2d(channels // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, kernel_size=1),
        )
        # It starts at a constant, whatever the scale of the features: a first step of a large error kills the ReLU.
        nn.init.normal_(self.head[-1].weight, std=1e-3)
        nn.init.constant_(self.head[-1].bias, START)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """One or four maps ``(B, D, h, w)`` to ``log(1 + depth)``, ``(B, 1, 16h, 16w)``.

        Raises:
            ValueError: neither one nor four maps.
        """
        maps = tuple(inputs) * 4 if len(inputs) == 1 else tuple(inputs)
        if len(maps) != 4:
            raise ValueError(f'DPTDepthHead reads one or four maps, not {len(maps)}: set out_indices accordingly')
        layers = zip(self.convs, self.reassemble_stage.layers, maps, strict=True)
        scales = [conv(layer(x)) for conv, layer, x in layers][::-1]
        fused = None
        for layer, scale in zip(self.fusion_stage.layers, scales, strict=True):
            fused = layer(scale, None) if fused is None else layer(fused, scale)
        return self.head(fused)
