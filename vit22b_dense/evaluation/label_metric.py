"""Scores of the labels of whole images."""

import numpy as np
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS


@METRICS.register_module()
class MultiLabelMetric(BaseMetric):
    """Mean average precision over the classes, and precision at 1, in percent.

    - ``mAP``: the mean of ``AP/CLASS``, over the classes that some image shows;
    - ``precision@1``: the share of the images, of those that show a class at all, whose most probable class they show.
      With one label an image this is the accuracy;
    - ``majority/mAP`` and ``majority/precision@1``: of a constant answer, the shares of the classes.
    """

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        """Keep truth and probabilities of a batch."""
        for sample in data_samples:
            pair = (sample[key]['score'].float().cpu().numpy() for key in ('gt_label', 'pred_label'))
            self.results.append(tuple(pair))

    def compute_metrics(self, results: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """The scores of all images."""
        truth, scores = (np.stack(column) for column in zip(*results, strict=True))
        truth = truth > 0
        shown = np.flatnonzero(truth.any(axis=0))
        some = truth.any(axis=1)
        precisions = {k: average_precision(truth[:, k], scores[:, k]) for k in shown}
        best = scores.argmax(axis=1)
        share = truth.mean(axis=0)
        found = {
            'mAP': np.mean(list(precisions.values())) if precisions else np.nan,
            'precision@1': truth[np.arange(len(truth)), best][some].mean() if some.any() else np.nan,
            'majority/mAP': share[shown].mean() if precisions else np.nan,
            'majority/precision@1': truth[some].mean(axis=0).max() if some.any() else np.nan,
        }
        names = (self.dataset_meta or {}).get('classes') or range(truth.shape[1])
        found |= {f'AP/{names[k]}': value for k, value in precisions.items()}
        return {name: round(100 * float(value), 2) for name, value in found.items()}


def average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """The mean, over the images that show a class, of the precision among all that score at least as high.

    Args:
        truth: ``(N,)`` bool, not all False.
        scores: ``(N,)``, higher for a class that is more likely shown.
    """
    order = np.argsort(-scores, kind='stable')
    hits, ranked = np.cumsum(truth[order]), scores[order]
    last = np.searchsorted(-ranked, -ranked, side='right') - 1  # of those with the same score, which have no order
    return float((hits[last] / (last + 1))[truth[order]].mean())
