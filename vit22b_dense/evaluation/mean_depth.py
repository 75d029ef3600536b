"""The scores of always answering the mean depth: what any model has to beat."""

from collections.abc import Sequence

import numpy as np
from mmseg.registry import METRICS

from .depth_metric import Protocol, RunningMetric, pixel_sums, scores_of

BIN = 0.01  # metres


class _Histogram:
    def __init__(self, size: int) -> None:
        self.counts = np.zeros(size, np.int64)

    def add(self, other: '_Histogram') -> None:
        self.counts += other.counts


@METRICS.register_module()
class MeanDepthMetric(RunningMetric):
    """Pixel-pooled scores of a constant depth, beside the model's own.

    The constant is the mean depth of the ground truth that is evaluated, in metres (``mean_depth/NAME``), and the
    mean of ``log(1 + depth)`` brought back to metres (``mean_log_depth/NAME``), the best constant for ``mse_log``.
    Depths are counted in bins of 1 cm.

    Args:
        max_depth, min_depth, crop: of `SparseDepthMetric`; to be the same.
        collect_device, prefix: as in mmengine.
    """

    def __init__(
        self,
        max_depth: float = 80.0,
        min_depth: float = 1e-3,
        crop: str | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        self.protocol = Protocol(min_depth, max_depth, crop)
        super().__init__(collect_device, prefix)

    def new_state(self) -> _Histogram:
        """Nothing seen."""
        return _Histogram(int(self.protocol.max_depth / BIN) + 1)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the depths of the ground truth."""
        for sample in data_samples:
            state = self.new_state()
            if 'gt_depth_map' in sample:
                _, gt = self.protocol.ground_truth(sample['gt_depth_map']['data'].squeeze(0).cpu().numpy())
                state.counts += np.bincount((gt / BIN).astype(np.int64), minlength=len(state.counts))
            self.add_image(state)

    def compute_metrics(self, results: list[_Histogram]) -> dict[str, float]:
        """The scores of both constants, and the constants."""
        counts = sum(part.counts for part in results)
        seen = np.flatnonzero(counts)
        gt, weight = (seen + 0.5) * BIN, counts[seen]
        scores = {}
        if len(seen):
            mean_log = np.average(np.log1p(gt), weights=weight)
            constants = {'mean_depth': np.average(gt, weights=weight), 'mean_log_depth': np.expm1(mean_log)}
            for name, value in constants.items():
                found = scores_of(pixel_sums(np.full(len(gt), value), gt, weight))
                scores |= {f'{name}/metres': float(value)} | {f'{name}/{key}': v for key, v in found.items()}
        return scores
