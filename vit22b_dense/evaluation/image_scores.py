"""Metrics beside a config's own: scores of single images, of single classes, and of a constant prediction."""

import numpy as np
from mmseg.registry import METRICS

from .depth_metric import Protocol, pixel_sums, scores_of
from .examples import ImageScores
from .label_counts import label_counts


@METRICS.register_module()
class ImageIoUMetric(ImageScores):
    """IoU of each class (percent), each image's own mean IoU, and the scores of a constant answer.

    ``IoU/CLASS`` runs over all images, an image's mean over the classes that its label or its prediction has; a class
    that neither has anywhere in the data set is left out. ``majority/mIoU`` and ``majority/aAcc`` are those of always
    predicting the most frequent class of the ground truth: what any model has to beat.
    """

    title = 'mIoU'
    higher_is_better = True

    def score(self, sample: dict) -> tuple[float, tuple]:
        """Of ``pred_sem_seg`` and ``gt_sem_seg``, ``(1, H, W)``: the mean IoU, and pixels of each class."""
        both, true, predicted = label_counts(sample, len(self.dataset_meta['classes']))
        union = true + predicted - both
        return _mean_iou(both, union), (both, union, true)

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """The scores of the constant answer and of the classes; fills `images`."""
        self.images = [(path, _mean_iou(both, union)) for path, both, union, _ in results]
        both, union, true = (sum(column) for column in list(zip(*results, strict=True))[1:])
        share = 100 * float(true.max() / max(true.sum(), 1))
        scores = {'majority/mIoU': share / max(np.count_nonzero(true), 1), 'majority/aAcc': share}
        for name, b, u in zip(self.dataset_meta['classes'], both, union, strict=True):
            scores |= {f'IoU/{name}': 100 * b / u} if u else {}
        return {name: round(value, 2) for name, value in scores.items()}


def _mean_iou(both: np.ndarray, union: np.ndarray) -> float:
    present = union > 0
    return float(100 * (both[present] / union[present]).mean()) if present.any() else float('nan')


@METRICS.register_module()
class ImageDepthMetric(ImageScores):
    """Each image's own absolute relative error; no scores of all images together (`SparseDepthMetric` has them).

    Its arguments must be those of the `SparseDepthMetric` beside it.
    """

    title = 'abs_rel'
    higher_is_better = False

    def __init__(self, max_depth: float = 80.0, min_depth: float = 1e-3, crop: str | None = None) -> None:
        super().__init__()
        self.protocol = Protocol(min_depth, max_depth, crop)

    def score(self, sample: dict) -> tuple[float, tuple]:
        """Of ``pred_depth_map`` and perhaps ``gt_depth_map``, ``(1, H, W)``: the absolute relative error."""
        if 'gt_depth_map' not in sample:
            return float('nan'), (float('nan'),)
        index, gt = self.protocol.ground_truth(sample['gt_depth_map']['data'].squeeze(0).cpu().numpy())
        pred = sample['pred_depth_map']['data'].float().cpu().numpy().ravel()[index].astype(np.float64)
        pred = pred.clip(self.protocol.min_depth, self.protocol.max_depth)
        score = scores_of(pixel_sums(pred, gt))['abs_rel']
        return score, (score,)

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """No scores; fills `images`."""
        self.images = results
        return {}
