"""Pictures of the best, the median and the worst image of a test, from predictions kept while it ran."""

import hashlib
import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import mmcv
import numpy as np
import torch
from mmengine.structures import PixelData
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample
from PIL import Image

from ..files import write_atomically

if TYPE_CHECKING:
    from .image_scores import ImageScores

MOST = 200  # predictions that a process keeps
FIELDS = {'pred_sem_seg': np.uint8, 'gt_sem_seg': np.uint8, 'pred_depth_map': np.float16, 'gt_depth_map': np.float16}


class KeptPredictions:
    """Predictions on disk, a bounded number: the best and the worst so far, and others by the hash of their names.

    So the best and the worst of all are there in the end, and one that is the median or close to it. Each of several
    processes keeps its own in the same folder.

    Args:
        folder: made when the first one is kept.
        higher_is_better: direction of the scores.
    """

    def __init__(self, folder: Path, higher_is_better: bool) -> None:
        self.folder = folder
        self.sign = 1 if higher_is_better else -1
        self.scores: dict[str, float] = {}

    def path(self, image: str) -> Path:
        """Where the prediction of an image is kept."""
        return self.folder / f'{hashlib.sha256(image.encode()).hexdigest()}.npz'

    def keep(self, sample: dict, score: float) -> None:
        """Keep what a picture of a sample needs; depth with 11 bits of precision."""
        if not np.isfinite(score):
            return
        image = sample['img_path']
        self.scores[image] = self.sign * score
        if len(self.scores) > MOST:
            ends = {min(self.scores, key=self.scores.get), max(self.scores, key=self.scores.get)}
            dropped = max(self.scores.keys() - ends, key=lambda name: self.path(name).name)
            del self.scores[dropped]
            self.path(dropped).unlink(missing_ok=True)
            if dropped == image:
                return
        self.folder.mkdir(parents=True, exist_ok=True)
        fields = {
            name: sample[name]['data'].squeeze(0).float().cpu().numpy().astype(kind)
            for name, kind in FIELDS.items()
            if name in sample
        }
        np.savez_compressed(self.path(image), **fields)

    def read(self, image: str) -> SegDataSample:
        """The sample as `keep` had it."""
        sample = SegDataSample()
        with np.load(self.path(image)) as fields:
            for name in fields.files:
                data = torch.from_numpy(fields[name])[None]
                sample.set_field(PixelData(data=data.float() if data.is_floating_point() else data.long()), name)
        return sample


def draw_examples(metric: 'ImageScores', visualizer: Visualizer, folder: Path) -> list[dict]:
    """Draw the best, the median and the worst image of a test that has just ended, and let go of what was kept.

    A picture that cannot be drawn is said and left out.

    Args:
        metric: which has scored the images of that test and kept predictions.
        visualizer: with ``draw``, as those here, or one of mmseg's.
        folder: for the pictures, PNG.

    Returns:
        Of each picture: its rank, the image, its score with the score's name, and the picture's file name.
    """
    examples = []
    for rank, index in metric.ranked().items():
        path, score = metric.images[index]
        try:
            sample, image = metric.kept.read(path), mmcv.imread(path, channel_order='rgb')
            folder.mkdir(parents=True, exist_ok=True)
            if hasattr(visualizer, 'draw'):
                buffer = io.BytesIO()
                Image.fromarray(visualizer.draw(image, sample, True, True)).save(buffer, 'PNG')
                write_atomically(folder / f'{rank}.png', buffer.getvalue())
            else:
                visualizer.add_datasample(rank, image, sample, out_file=str(folder / f'{rank}.png'))
        except Exception as error:  # somebody else's visualizer may raise anything, and the scores are what counts
            print(f'no picture of the {rank} image, {path}: {type(error).__name__}: {error}', flush=True)
            continue
        examples.append(dict(rank=rank, image=path, metric=metric.title, score=score, picture=f'{rank}.png'))
    shutil.rmtree(metric.kept.folder, ignore_errors=True)
    return examples
