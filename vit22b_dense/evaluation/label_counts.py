"""The pixels of each true and predicted class of an image, counted once for all metrics of a test."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS

IGNORED = 255  # the label value that counts for nothing


class LabelCounts(NamedTuple):
    """Pixels of each class, ``(K,)`` int64: right ones, those of the label, and those of the prediction."""

    both: np.ndarray
    true: np.ndarray
    predicted: np.ndarray


def label_counts(sample: dict, classes: int, ignore_index: int = IGNORED) -> LabelCounts:
    """Count a sample's ``pred_sem_seg`` and ``gt_sem_seg``, ``(1, H, W)``, where the label is not ``ignore_index``.

    The counts stay in the sample: an evaluator hands the same one to all of its metrics.
    """
    key = f'label_counts_{ignore_index}'
    if key not in sample:
        pred, label = (sample[name]['data'].flatten().cpu().numpy() for name in ('pred_sem_seg', 'gt_sem_seg'))
        side = 1 + max(IGNORED, classes)
        pairs = np.bincount(label.astype(np.int64) * side + pred, minlength=side * side).reshape(side, side)
        pairs[ignore_index] = 0
        found = pairs.diagonal().copy(), pairs.sum(1), pairs.sum(0)
        sample[key] = LabelCounts(*(count[:classes] for count in found))
    return sample[key]


@METRICS.register_module()
class CountedIoUMetric(IoUMetric):
    """mmseg's `IoUMetric`, whose pixels are counted as pairs of label and prediction: several times as fast."""

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count each image's pixels, and write its prediction where ``output_dir`` says so."""
        if not self.format_only:
            for sample in data_samples:
                counts = label_counts(sample, len(self.dataset_meta['classes']), self.ignore_index)
                both, true, predicted = map(torch.from_numpy, counts)
                self.results.append((both, true + predicted - both, predicted, true))
        if self.output_dir is not None:
            counting, self.format_only = self.format_only, True
            super().process(data_batch, data_samples)
            self.format_only = counting
