"""`TokenPyramid`: from the one resolution of a plain ViT to the several that UperNet reads."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn


class Halve(nn.Module):
    """Max pooling to half the size, rounded up. Of an odd side the windows overlap, so that they cover it evenly."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` to ``(B, C, ceil(h/2), ceil(w/2))``."""
        return F.adaptive_max_pool2d(x, [(side + 1) // 2 for side in x.shape[2:]])


@MODELS.register_module()
class TokenPyramid(BaseModule):
    """Four maps at several resolutions, by default 4, 2, 1 and 1/2 times that of the tokens.

    Each map is projected to ``out_channels`` first, so that nothing behind the projection sees the width of the
    backbone (the usual order, deconvolutions at width 6144, costs 453 M parameters).

    Args:
        in_channels: D, the width of the backbone.
        out_channels: C, the width of the pyramid; a multiple of ``num_groups``.
        scales: of the four maps, finest first, relative to the tokens: 4, 2, 1, 0.5 or 0.25.
        num_groups: of the group norms. Group norm, because it does not depend on the batch size.
        init_cfg: mmengine's initialisation config.

    Source: the simple feature pyramid of ViTDet, arXiv 2203.16527, section 3; BEiT's, arXiv 2106.08254, for
    UperNet; the projection in front is ours.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 512,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        num_groups: int = 32,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if out_channels % num_groups:
            raise ValueError(f'out_channels={out_channels} must be a multiple of num_groups={num_groups}')

        def norm() -> nn.GroupNorm:
            return nn.GroupNorm(num_groups, out_channels)

        def double() -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(out_channels, out_channels, kernel_size=2, stride=2)

        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False), norm()) for _ in range(4)
        )
        made = {
            4: lambda: nn.Sequential(double(), norm(), nn.GELU(), double()),
            2: double,
            1: nn.Identity,
            0.5: Halve,
            0.25: lambda: nn.Sequential(Halve(), Halve()),
        }
        if len(scales) != 4 or not set(scales) <= made.keys():
            raise ValueError(f'scales={tuple(scales)}: give four of {", ".join(map(str, made))}')
        self.scales = nn.ModuleList(made[scale]() for scale in scales)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Make the pyramid.

        Args:
            inputs: four maps ``(B, D, h, w)`` for the four scales, or one that is used for all of them.

        Returns:
            ``(B, C, sh, sw)`` of each scale s, rounded up at each halving.

        Raises:
            ValueError: neither one nor four maps.
        """
        if len(inputs) == 1:
            inputs = inputs * 4
        if len(inputs) != 4:
            raise ValueError(f'TokenPyramid reads one or four maps, not {len(inputs)}: set out_indices accordingly')
        return tuple(
            scale(project(x)) for x, project, scale in zip(inputs, self.projections, self.scales, strict=True)
        )
