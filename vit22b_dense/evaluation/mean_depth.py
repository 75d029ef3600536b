"""The scores of always answering the mean depth: what any model has to beat."""

from collections.abc import Sequence

import numpy as np
from mmseg.registry import METRICS

from .depth_metric import Protocol, RunningMetric, pixel_sums, scores_of

BIN = 0.01  # metres


class _Histogram:
    """How much each depth counts, and the sums over images of those scores that are no means over pixels."""

    def __init__(self, size: int) -> None:
        self.weight = np.zeros(size)
        self.images, self.roots = 0, {}

    def add(self, other: '_Histogram') -> None:
        self.weight += other.weight
        self.images += other.images
        for key, value in other.roots.items():
            self.roots[key] = self.roots.get(key, 0) + value


@METRICS.register_module()
class MeanDepthMetric(RunningMetric):
    """Scores of a constant depth, beside the model's own.

    The constant is the mean depth of the ground truth that is evaluated, in metres (``mean_depth/NAME``), and the
    mean of ``log(1 + depth)`` brought back to metres (``mean_log_depth/NAME``), the best constant for ``mse_log``.
    Depths are counted in bins of 1 cm.

    Args:
        max_depth, min_depth, crop, average: the same as those of `SparseDepthMetric`. With ``average='image'`` every
            image counts the same for the constants, too.
    """

    def __init__(
        self, max_depth: float = 80.0, min_depth: float = 1e-3, crop: str | None = None, average: str = 'pixel'
    ) -> None:
        self.protocol = Protocol(min_depth, max_depth, crop, average)
        self.depths = (np.arange(int(max_depth / BIN) + 1) + 0.5) * BIN
        super().__init__()

    def new_state(self) -> _Histogram:
        """Nothing seen."""
        return _Histogram(len(self.depths))

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the depths of ``gt_depth_map``, ``(1, H, W)``; it may be missing."""
        for sample in data_samples:
            state = self.new_state()
            if 'gt_depth_map' in sample:
                _, gt = self.protocol.ground_truth(sample['gt_depth_map']['data'].squeeze(0).cpu().numpy())
                state.weight += np.bincount((gt / BIN).astype(np.int64), minlength=len(self.depths))
                if len(gt) and self.protocol.average == 'image':
                    state.weight /= len(gt)
                    state.images, state.roots = 1, self._roots(state.weight)
            self.add_image(state)

    def _roots(self, share: np.ndarray) -> dict[str, np.ndarray]:
        """An image's scores that are roots, for each depth as the constant answer, from the shares of its depths."""
        log = np.log(self.depths)
        rmse, rmse_log = (
            np.sqrt(np.maximum(values**2 - 2 * values * (share @ values) + share @ values**2, 0))
            for values in (self.depths, log)
        )
        silog = 100 * max(share @ log**2 - (share @ log) ** 2, 0) ** 0.5
        return dict(rmse=rmse, rmse_log=rmse_log, silog=np.full_like(log, silog))

    def compute_metrics(self, results: list[_Histogram]) -> dict[str, float]:
        """The scores of both constants, and the constants."""
        total = self.new_state()
        for part in results:
            total.add(part)
        seen = np.flatnonzero(total.weight)
        gt, weight = self.depths[seen], total.weight[seen]
        scores = {}
        if len(seen):
            mean_log = np.average(np.log1p(gt), weights=weight)
            constants = {'mean_depth': np.average(gt, weights=weight), 'mean_log_depth': np.expm1(mean_log)}
            for name, value in constants.items():
                found = scores_of(pixel_sums(np.full(len(gt), value), gt, weight))
                for key, root in total.roots.items():
                    found[key] = float(np.interp(value, self.depths, root)) / total.images
                scores |= {f'{name}/metres': float(value)} | {f'{name}/{key}': v for key, v in found.items()}
        return scores
