"""The score of always answering the most frequent class: what any model has to beat."""

from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS


@METRICS.register_module()
class MajorityClassMetric(BaseMetric):
    """mIoU and pixel accuracy (percent) of the constant answer, beside the model's own.

    The class is the most frequent one in the ground truth that is evaluated: the best that a constant answer can
    do. As in mmseg's `IoUMetric`, the mean runs over the classes that occur.

    Args:
        ignore_index: the label value that counts for nothing.
        collect_device: as in mmengine.
        prefix: of the metric's names.
    """

    default_prefix = 'majority'

    def __init__(self, ignore_index: int = 255, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the ground truth's pixels of each class."""
        num_classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            label = sample['gt_sem_seg']['data'].flatten().cpu().numpy()
            self.results.append(np.bincount(label[label != self.ignore_index], minlength=num_classes))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float | str]:
        """``mIoU`` and ``aAcc`` of the constant answer."""
        counts = np.sum(results, axis=0)
        share = counts.max() / max(counts.sum(), 1)
        self.majority_class = self.dataset_meta['classes'][int(counts.argmax())]
        return {
            'mIoU': round(100 * float(share / max((counts > 0).sum(), 1)), 2),
            'aAcc': round(100 * float(share), 2),
        }
