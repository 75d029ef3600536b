"""What the token grid allows: the scores of the ground truth itself, pooled to the tokens and brought back.

A decoder that answers at the resolution of the tokens cannot be expected to do better, however good the features are:
a pole narrower than a token is lost in the grid and not in the backbone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS

from .depth_metric import SCORES, Protocol, RunningMetric, Sums
from .label_counts import IGNORED

STEP_NUMBERS = 2**18  # shares of pixels that are interpolated at once


def grid_of(sample: dict, patch_size: int) -> tuple[int, int]:
    """Rows and columns of tokens that the model's input had."""
    height, width = sample['img_shape'][:2]
    return -(-height // patch_size), -(-width // patch_size)


def through_grid(label: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Labels as a grid of tokens can give them: of each class its share of each token, brought back bilinearly.

    Between four tokens only their own classes can win, and most neighbours have one in common, so that little is to be
    interpolated: a few percent of what maps of all classes would take.

    Args:
        label: ``(H, W)`` int64; `IGNORED` counts for nothing.
        grid: rows and columns of tokens.

    Returns:
        ``(H, W)`` int64, the class with the largest share at each pixel that is not `IGNORED`; of the others nothing
        is said.
    """
    (rows, columns), values = _meshes(label.shape, grid), IGNORED + 1
    count = np.bincount((_cells(label.shape, grid) * values + label).ravel(), minlength=grid[0] * grid[1] * values)
    count = count.reshape(-1, values)
    classes = np.flatnonzero(count.any(0)[:IGNORED])
    count = count[:, classes]
    share = (count / np.maximum(count.sum(1, keepdims=True), 1)).astype(np.float32)
    corners = [
        (row[:, None] * grid[1] + column).ravel()
        for row in (rows.before, rows.behind)
        for column in (columns.before, columns.behind)
    ]
    seen = np.any([(share > 0)[corner] for corner in corners], axis=0)
    number, back = seen.sum(1), label.copy()
    for kinds, meshes in _at_once(number, len(rows.pixels) * len(columns.pixels)):
        # C classes and N meshes, of h by w pixels
        which = np.nonzero(seen[meshes])[1].reshape(-1, kinds).T  # (C, N)
        above_left, above_right, below_left, below_right = (share[corner[meshes], which] for corner in corners)
        row, column = np.divmod(meshes, len(columns.before))
        down, right = rows.weight[:, row], columns.weight[:, column]  # (h, N), (w, N)
        left_side = above_left[:, None] * (1 - down) + below_left[:, None] * down  # (C, h, N)
        right_side = above_right[:, None] * (1 - down) + below_right[:, None] * down
        shares = left_side[:, :, None] * (1 - right) + right_side[:, :, None] * right  # (C, h, w, N)
        winner, largest = np.broadcast_to(classes[which[0]], shares.shape[1:]), shares[0]
        for some, own in zip(shares[1:], classes[which[1:]], strict=True):
            winner, largest = np.where(some > largest, own, winner), np.maximum(some, largest)
        back[rows.pixels[:, None, row], columns.pixels[:, column]] = winner
    return back


def _at_once(number: np.ndarray, pixels: int) -> Iterator[tuple[int, np.ndarray]]:
    """Meshes of more than one class in parts that fit a processor's cache, each of meshes of as many classes."""
    for kinds in np.unique(number[number > 1]):
        meshes = np.flatnonzero(number == kinds)
        yield from ((kinds, some) for some in np.array_split(meshes, 1 + len(meshes) * kinds * pixels // STEP_NUMBERS))


@dataclass(frozen=True)
class _Mesh:
    """Along one side, the spaces between two neighbouring tokens' middles, and before the first and behind the last.

    Attributes:
        before, behind: ``(N,)``, the tokens.
        pixels: ``(n, N)``, those in between; the last one is repeated where there are fewer.
        weight: ``(n, N)`` float32, of the token behind.
    """

    before: np.ndarray
    behind: np.ndarray
    pixels: np.ndarray
    weight: np.ndarray


@lru_cache(8)
def _meshes(size: tuple[int, int], grid: tuple[int, int]) -> list[_Mesh]:
    found = []
    for side, tokens in zip(size, grid, strict=True):
        source = (np.arange(side) + 0.5) * tokens / side - 0.5
        before, number = np.floor(source).astype(np.int64), np.arange(-1, tokens)
        number = number[np.isin(number, before)]  # of more tokens than pixels not all
        first, end = (np.searchsorted(before, number, where) for where in ('left', 'right'))
        pixels = np.minimum(first + np.arange((end - first).max())[:, None], end - 1)
        weight = (source - before).astype(np.float32)[pixels]
        found.append(_Mesh(np.maximum(number, 0), np.minimum(number + 1, tokens - 1), pixels, weight))
    return found


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
    cells = _cells(size, grid).ravel()[index]
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


@lru_cache(1)
def _cells(size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """The token that each pixel lies in, ``(H, W)``: each stands for an equal part of the image."""
    rows, columns = ((2 * np.arange(side) + 1) * tokens // (2 * side) for side, tokens in zip(size, grid, strict=True))
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
            label = sample['gt_sem_seg']['data'].squeeze(0).cpu().long().numpy()
            pooled = through_grid(label, grid_of(sample, self.patch_size))
            wrong = (pooled != label) & (label != IGNORED)
            true, missed, taken = (
                np.bincount(some.ravel(), minlength=IGNORED)[:size] for some in (label, label[wrong], pooled[wrong])
            )
            self.results.append([true - missed, true, true - missed + taken])

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
