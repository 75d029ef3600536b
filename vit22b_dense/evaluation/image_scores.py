"""Scores of single images, so that the best and the worst can be looked at, and of single classes."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS

from .depth_metric import Protocol, pixel_sums, scores_of
from .examples import KeptPredictions


class ImageScores(BaseMetric):
    """A metric that keeps each image's own score.

    Attributes:
        images: after `evaluate`, on the main process: path and score of each image in the data set's order; NaN where
            an image has no ground truth.
        higher_is_better: direction of the score.
        title: what the score is.
    """

    higher_is_better = True
    title = ''

    def __init__(self, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.images: list[tuple[str, float]] = []
        self.kept: KeptPredictions | None = None

    def keep_predictions(self, folder: Path) -> None:
        """Keep some predictions of the test to come below a folder, for `draw_examples`."""
        self.kept = KeptPredictions(folder / '.kept', self.higher_is_better)

    @abstractmethod
    def score(self, sample: dict) -> tuple[float, tuple]:
        """A sample's score, and what `compute_metrics` shall have of it behind its path."""

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Score each image, and keep its prediction where that is wanted."""
        for sample in data_samples:
            score, result = self.score(sample)
            self.results.append((sample['img_path'], *result))
            if self.kept:
                self.kept.keep(sample, score)

    def ranked(self) -> dict[str, int]:
        """Positions of the best, the median and the worst image; of fewer where there are fewer.

        Where predictions were kept, of those alone; the median is then the one that is closest to it.
        """
        scored = [i for i, (_, score) in enumerate(self.images) if np.isfinite(score)]
        scored.sort(key=lambda i: self.images[i][1], reverse=self.higher_is_better)
        middle = len(scored) // 2
        if self.kept:
            there = [place for place, i in enumerate(scored) if self.kept.path(self.images[i][0]).exists()]
            middle = min(range(len(there)), key=lambda i: abs(there[i] - middle), default=0)
            scored = [scored[place] for place in there]
        places = {'best': 0, 'median': middle, 'worst': len(scored) - 1}
        names = {0: [], 1: ['best'], 2: ['best', 'worst']}.get(len(scored), list(places))
        return {name: scored[places[name]] for name in names}


@METRICS.register_module()
class ImageIoUMetric(ImageScores):
    """IoU of each class over all images (``IoU/CLASS``, percent), and each image's own mean.

    An image's mean runs over the classes that its label or its prediction has; a class that neither has anywhere in
    the data set is left out.

    Args:
        ignore_index: the label value that counts for nothing.
        collect_device, prefix: as in mmengine.
    """

    title = 'mIoU'

    def __init__(self, ignore_index: int = 255, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device, prefix)
        self.ignore_index = ignore_index

    def score(self, sample: dict) -> tuple[float, tuple]:
        """Of ``pred_sem_seg`` and ``gt_sem_seg``, ``(1, H, W)``: the mean IoU, and pixels of each class."""
        size = len(self.dataset_meta['classes'])
        pred, label = (sample[key]['data'].flatten().cpu().numpy() for key in ('pred_sem_seg', 'gt_sem_seg'))
        pred, label = pred[label != self.ignore_index], label[label != self.ignore_index]
        both = np.bincount(label[pred == label], minlength=size)
        union = np.bincount(pred, minlength=size) + np.bincount(label, minlength=size) - both
        return _mean_iou(both, union), (both, union)

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """The classes' IoU; fills `images`."""
        self.images = [(path, _mean_iou(both, union)) for path, both, union in results]
        both, union = (sum(column) for column in list(zip(*results, strict=True))[1:])
        classes = self.dataset_meta['classes']
        return {f'IoU/{name}': round(100 * b / u, 2) for name, b, u in zip(classes, both, union, strict=True) if u}


def _mean_iou(both: np.ndarray, union: np.ndarray) -> float:
    present = union > 0
    return float(100 * (both[present] / union[present]).mean()) if present.any() else float('nan')


@METRICS.register_module()
class ImageDepthMetric(ImageScores):
    """Each image's own absolute relative error; no scores of all images together (`SparseDepthMetric` has them).

    Args:
        max_depth, min_depth, crop: of `SparseDepthMetric`; to be the same.
        collect_device, prefix: as in mmengine.
    """

    title = 'abs_rel'
    higher_is_better = False

    def __init__(
        self,
        max_depth: float = 80.0,
        min_depth: float = 1e-3,
        crop: str | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        self.protocol = Protocol(min_depth, max_depth, crop)

    def score(self, sample: dict) -> tuple[float, tuple]:
        """Of ``pred_depth_map`` and perhaps ``gt_depth_map``, ``(1, H, W)``: the absolute relative error."""
        if 'gt_depth_map' not in sample:
            return float('nan'), (float('nan'),)
        index, gt = self.protocol.ground_truth(sample['gt_depth_map']['data'].squeeze(0).cpu().numpy())
        pred = sample['pred_depth_map']['data'].float().cpu().numpy().ravel()[index].astype(np.float64)
        limits = self.protocol.min_depth, self.protocol.max_depth
        score = scores_of(pixel_sums(pred.clip(*limits), gt))['abs_rel']
        return score, (score,)

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """No scores; fills `images`."""
        self.images = results
        return {}
