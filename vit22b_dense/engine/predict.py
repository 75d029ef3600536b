"""A trained model on single images."""

from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmseg.registry import DATASETS

from ..errors import UserError
from ..evaluation.panels import segmentation_panel
from .restore import load_model

# what reads ground truth, and so has nothing to read here
LABEL_STEPS = {'LoadLabels', 'LoadAnnotations'}


class Segmenter:
    """A segmentation model with its test pipeline.

    Args:
        cfg: a config as `load_config` returns it.
        checkpoint: weights of the whole model; they must fit.

    Attributes:
        classes: names. palette: RGB of each class.
        values: ``(classes,)`` uint8, each class's value in the data set's label files.

    Raises:
        UserError: the config is not one of segmentation.
        CheckpointError: the weights cannot be read or do not fit.
    """

    def __init__(self, cfg: Config, checkpoint: str | Path) -> None:
        if 'num_classes' not in cfg.model.decode_head:
            raise UserError(f'{cfg.filename}: not a segmentation config; tools/test.py --show-dir shows depth')
        self.model = load_model(cfg, checkpoint).to(get_device()).eval()
        data = cfg.test_dataloader.dataset
        load, *rest = [step for step in data.pipeline if step.type not in LABEL_STEPS]
        self.load, self.prepare = Compose([load]), Compose(rest)
        # The data set is built for its classes alone and never read. Pascal's look for a folder and a list all the
        # same: these exist.
        dataset = DATASETS.build(
            dict(
                type=data.type,
                metainfo=data.get('metainfo'),
                data_prefix=dict(img_path='.'),
                ann_file=__file__,
                lazy_init=True,
            )
        )
        self.classes, self.palette = dataset.metainfo['classes'], dataset.metainfo['palette']
        # stored = class + 1 where 0 is 'ignored'; a data set read with some of its classes numbers them anew
        stored = {new: old for old, new in (dataset.label_map or {}).items() if new != 255}
        offset = int(dataset.metainfo['reduce_zero_label'])
        self.values = np.array([stored.get(i, i) + offset for i in range(len(self.classes))], np.uint8)

    @torch.no_grad()
    def predict(self, path: str | Path) -> tuple[np.ndarray, np.ndarray]:
        """Image (RGB uint8 ``(H, W, 3)``) and class numbers (uint8 ``(H, W)``) of an image file, at its own size.

        Raises:
            DataError: the file does not decode as an image.
        """
        loaded = self.load(dict(img_path=str(path)))
        image = loaded['img'][..., ::-1].copy()
        (sample,) = self.model.test_step(pseudo_collate([self.prepare(loaded)]))
        return image, sample.pred_sem_seg.data[0].byte().cpu().numpy()

    def picture(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Image and prediction side by side with a legend: RGB uint8.

        Args:
            image: from `predict`, and so are the labels.
            labels: class numbers.
        """
        return segmentation_panel(image, labels, None, self.classes, self.palette)
