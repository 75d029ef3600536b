"""What the token grid allows: the scores of the ground truth itself, pooled to the tokens and brought back.

A decoder that answers at the resolution of the tokens cannot be expected to do better, however good the features are:
a pole narrower than a token is lost in the grid and not in the backbone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS
from torch import Tensor

from ..strips import Mosaic, Side, labels_of
from .depth_metric import SCORES, Protocol, RunningMetric, Sums
from .image_scores import IGNORED


def grid_of(sample: dict, patch_size: int) -> tuple[int, int]:
    """Rows and columns of tokens that the model's input had."""
    height, width = sample['img_shape'][:2]
    return -(-height // patch_size), -(-width // patch_size)


def through_grid(label: Tensor, grid: tuple[int, int]) -> Tensor:
    """Labels as a grid of tokens can give them: of each class its share of each token, brought back bilinearly.

    Args:
        label: ``(H, W)`` int64; `IGNORED` counts for nothing.
        grid: rows and columns of tokens.

    Returns:
        ``(H, W)`` int64, the class with the largest share at each pixel.
    """
    values = IGNORED + 1
    count = torch.bincount(
        (_cells(label.shape, grid) * values + label).flatten(), minlength=grid[0] * grid[1] * values
    )
    count = count.view(1, *grid, values)
    count[..., IGNORED] = 0
    classes = count.flatten(0, 2).any(0).nonzero()[:, 0]
    if not len(classes):
        return label
    share = count[..., classes].float()
    share /= share.sum(-1, keepdim=True).clamp(min=1)
    sides = (Side(side, side) for side in label.shape)
    return classes[labels_of([Mosaic(*sides, lambda row: share)])]


def depth_through_grid(
    depth: np.ndarray, index: np.ndarray, size: tuple[int, int], grid: tuple[int, int]
) -> np.ndarray:
    """Depth as a grid of tokens can give it: of each token the mean of ``log(1 + depth)``, brought back bilinearly.

    Args:
        depth: ``(N,)`` metres, of the pixels that have it.
        index: ``(N,)``, their places in the flat map.
        size: of the map, (height, width).
        grid: rows and columns of tokens; those without a pixel are left out of the interpolation.

    Returns:
        ``(N,)`` metres at the same pixels.
    """
    cells = _cells(size, grid).flatten().numpy()[index]
    count = np.bincount(cells, minlength=grid[0] * grid[1])
    mean = np.bincount(cells, np.log1p(depth), minlength=len(count)) / np.maximum(count, 1)
    value, weight = np.zeros(len(depth)), np.zeros(len(depth))
    (top, bottom, down), (left, right, across) = (
        _neighbours(place, side, tokens)
        for place, side, tokens in zip(np.divmod(index, size[1]), size, grid, strict=True)
    )
    for row, row_share in ((top, 1 - down), (bottom, down)):
        for column, column_share in ((left, 1 - across), (right, across)):
            cell = row * grid[1] + column
            share = row_share * column_share * (count[cell] > 0)
            value += share * mean[cell]
            weight += share
    return np.expm1(value / weight)


def _cells(size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The token that each pixel lies in, ``(H, W)``: each stands for an equal part of the image."""
    rows, columns = (
        (2 * torch.arange(side) + 1) * tokens // (2 * side) for side, tokens in zip(size, grid, strict=True)
    )
    return rows[:, None] * grid[1] + columns


def _neighbours(places: np.ndarray, side: int, tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of pixels of a side: the tokens before and behind, and the weight of the latter."""
    source = np.clip((places + 0.5) * tokens / side - 0.5, 0, tokens - 1)
    before = source.astype(np.int64)
    return before, np.minimum(before + 1, tokens - 1), source - before


@METRICS.register_module()
class GridIoUMetric(BaseMetric):
    """IoU (percent) of the labels themselves at the resolution of the tokens: ``grid/mIoU``, ``grid/IoU/CLASS``.

    In windows the tokens lie elsewhere in each window; what is scored is one grid of as many tokens over the image.

    Attributes:
        patch_size: of the backbone; None for no scores.
    """

    patch_size: int | None = None

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count ``gt_sem_seg`` ``(1, H, W)`` against itself behind the grid of ``img_shape``."""
        size = len(self.dataset_meta['classes'])
        for sample in data_samples if self.patch_size else ():
            label = sample['gt_sem_seg']['data'].squeeze(0).cpu().long()
            pooled = through_grid(label, grid_of(sample, self.patch_size))
            pairs = torch.bincount((label * size + pooled)[label != IGNORED], minlength=size**2).view(size, size)
            self.results.append([some.numpy() for some in (pairs.diagonal(), pairs.sum(1), pairs.sum(0))])

    def evaluate(self, size: int) -> dict[str, float]:
        """The scores; without a patch size none."""
        return super().evaluate(size) if self.patch_size else {}

    def compute_metrics(self, results: list[list[np.ndarray]]) -> dict[str, float]:
        """The scores of all images together."""
        both, true, pooled = (sum(column) for column in zip(*results, strict=True))
        union = true + pooled - both
        seen = union > 0
        iou = 100 * both / np.maximum(union, 1)
        scores = {'grid/mIoU': iou[seen].mean(), 'grid/aAcc': 100 * both.sum() / max(true.sum(), 1)}
        names = zip(self.dataset_meta['classes'], iou, seen, strict=True)
        scores |= {f'grid/IoU/{name}': value for name, value, there in names if there}
        return {name: round(float(value), 2) for name, value in scores.items()}


@METRICS.register_module()
class GridDepthMetric(RunningMetric):
    """Scores of the ground truth itself at the resolution of the tokens, ``grid/NAME``.

    Args:
        max_depth, min_depth, crop, average: the same as those of `SparseDepthMetric`.

    Attributes:
        patch_size: of the backbone; None for no scores.
    """

    patch_size: int | None = None

    def __init__(
        self, max_depth: float = 80.0, min_depth: float = 1e-3, crop: str | None = None, average: str = 'pixel'
    ) -> None:
        self.protocol = Protocol(min_depth, max_depth, crop, average)
        super().__init__()

    def new_state(self) -> Sums:
        """Nothing seen."""
        return Sums()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Compare ``gt_depth_map`` ``(1, H, W)``, if there is one, with itself behind the grid of ``img_shape``."""
        for sample in data_samples if self.patch_size else ():
            state = self.new_state()
            if 'gt_depth_map' in sample:
                depth = sample['gt_depth_map']['data'].squeeze(0).cpu().numpy()
                index, gt = self.protocol.ground_truth(depth)
                pooled = depth_through_grid(gt, index, depth.shape, grid_of(sample, self.patch_size))
                state.add_image(pooled.clip(self.protocol.min_depth, self.protocol.max_depth), gt)
            self.add_image(state)

    def compute_metrics(self, results: list[Sums]) -> dict[str, float]:
        """The scores by the protocol's average."""
        total = self.new_state()
        for part in results:
            total.add(part)
        scores = total.scores()
        return {f'grid/{name}': scores[f'{self.protocol.average}/{name}'] for name in SCORES} if total.count else {}
