"""Pictures of the best, the median and the worst image of a test, from predictions kept while it ran."""

import hashlib
import shutil
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.structures import PixelData
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample

MOST = 200  # predictions that a process keeps
KEPT = '.kept'  # their folder
FIELDS = {'pred_sem_seg': np.uint8, 'gt_sem_seg': np.uint8, 'pred_depth_map': np.float16, 'gt_depth_map': np.float16}


class ImageScores(BaseMetric):
    """A metric that keeps each image's own score, and on disk a bounded number of predictions.

    These are the best and the worst so far, and others by the hash of their names: so the best and the worst of all
    are there in the end, and one that is the median or close to it. Several processes keep theirs in one folder.

    After `evaluate`, on the main process, ``images`` has the path and the score of each image in the data set's
    order; NaN where an image has no ground truth.
    """

    title: str  # what the score is
    higher_is_better: bool
    images: Sequence[tuple[str, float]] = ()
    folder: Path | None = None  # of the predictions

    @abstractmethod
    def score(self, sample: dict) -> tuple[float, tuple]:
        """A sample's score, and what follows its path in the results that `compute_metrics` gets."""

    def keep_predictions(self, folder: Path) -> None:
        """Keep some predictions of the test to come below a folder, for `draw_examples`."""
        self.folder, self.kept = folder / KEPT, {}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Score each image, and keep its prediction where that is wanted."""
        for sample in data_samples:
            score, result = self.score(sample)
            self.results.append((sample['img_path'], *result))
            if self.folder and np.isfinite(score):
                self._keep(sample, score)

    def _keep(self, sample: dict, score: float) -> None:
        image = sample['img_path']
        self.kept[image] = score
        if len(self.kept) > MOST:
            ends = {min(self.kept, key=self.kept.get), max(self.kept, key=self.kept.get)}
            dropped = max(self.kept.keys() - ends, key=lambda name: self._file(name).name)
            del self.kept[dropped]
            self._file(dropped).unlink(missing_ok=True)
        if image in self.kept:
            self.folder.mkdir(parents=True, exist_ok=True)
            there = {name: sample[name]['data'].float().cpu().numpy() for name in FIELDS if name in sample}
            np.savez_compressed(self._file(image), **{name: data.astype(FIELDS[name]) for name, data in there.items()})

    def _file(self, image: str) -> Path:
        return self.folder / f'{hashlib.sha256(image.encode()).hexdigest()}.npz'

    def kept_sample(self, image: str) -> SegDataSample:
        """The prediction and ground truth of an image that was kept; depth with 11 bits of precision."""
        sample = SegDataSample()
        with np.load(self._file(image)) as fields:
            for name, array in fields.items():
                data = torch.from_numpy(array)
                sample.set_field(PixelData(data=data.float() if data.is_floating_point() else data.long()), name)
        return sample

    def ranked(self) -> dict[str, int]:
        """Positions of the best, the median and the worst image; of fewer where there are fewer.

        Where predictions were kept, of those alone; the median is then the one that is closest to it.
        """
        scored = [i for i, (_, score) in enumerate(self.images) if np.isfinite(score)]
        scored.sort(key=lambda i: self.images[i][1], reverse=self.higher_is_better)
        places = [p for p, i in enumerate(scored) if not self.folder or self._file(self.images[i][0]).exists()]
        if len(places) > 2:
            median = min(places, key=lambda place: abs(place - len(scored) // 2))
            return {'best': scored[places[0]], 'median': scored[median], 'worst': scored[places[-1]]}
        return dict(zip(('best', 'worst'), (scored[place] for place in places), strict=False))


def clear_examples(folder: Path) -> None:
    """Discard the predictions that a test which was cut off has kept below a folder: they are of other weights."""
    shutil.rmtree(folder / KEPT, ignore_errors=True)


def draw_examples(metric: ImageScores, visualizer: Visualizer, folder: Path) -> list[dict]:
    """Draw the best, the median and the worst image of a test that has just ended, and discard what was kept.

    Pictures are PNG files in a folder. One that cannot be drawn is reported and left out.

    Returns:
        Of each picture: its rank, the image, its score with the score's name, and the picture's file name.
    """
    examples = []
    for rank, index in metric.ranked().items():
        path, score = metric.images[index]
        try:
            image = mmcv.imread(path, channel_order='rgb')
            visualizer.add_datasample(rank, image, metric.kept_sample(path), out_file=str(folder / f'{rank}.png'))
        except Exception as error:  # somebody else's visualizer may raise anything, and the scores are what counts
            print(f'no picture of the {rank} image, {path}: {type(error).__name__}: {error}', flush=True)
            continue
        examples.append(dict(rank=rank, image=path, metric=metric.title, score=score, picture=f'{rank}.png'))
    shutil.rmtree(metric.folder, ignore_errors=True)
    return examples
