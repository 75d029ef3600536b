"""A trained model on single images: class numbers or depth, as arrays and as files."""

import io
from abc import ABC, abstractmethod
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmseg.registry import DATASETS
from PIL import Image

from ..errors import UserError
from ..evaluation.depth_panels import depth_panel
from ..evaluation.panels import segmentation_panel
from .restore import load_model
from .sharding.loading import load_sharded
from .sharding.mesh import data_rank_of, repeats_another

PNG_METRES = 256  # values per metre of a 16-bit depth map, as KITTI has them


class Predictor(ABC):
    """A model with its test pipeline; of a config with a strategy, a sharded one.

    Attributes:
        part: which part of the images is to be predicted here, of how many.
        counts: whether the results are to be kept; False where another process has the same.
        in_step: a context around all that is predicted here.

    Args:
        cfg: a config as `load_config` or `config_in` returns it.
        checkpoint: of the model, whole or of what was trained.

    Raises:
        CheckpointError: the weights cannot be read or do not fit.
    """

    endings: tuple[str, ...]  # of the files that `files` makes, behind the image's name

    def __init__(self, cfg: Config, checkpoint: str | Path) -> None:
        self.part, self.counts, lockstep = (0, 1), True, None
        if cfg.get('strategy'):
            self.model, mesh, lockstep = load_sharded(cfg, checkpoint)
            self.part, self.counts = data_rank_of(mesh), not repeats_another(mesh)
        else:
            self.model = load_model(cfg, checkpoint).to(get_device()).eval()
        self.in_step = lockstep.step if lockstep else nullcontext
        # what reads ground truth has nothing to read here
        first, *rest = [
            step for step in cfg.test_dataloader.dataset.pipeline
            if not step.type.startswith(('LoadLabels', 'LoadAnnotations', 'LoadSparseDepth', 'LoadDepth'))
        ]  # fmt: skip
        self.load, self.prepare = Compose([first]), Compose(rest)

    @torch.no_grad()
    def predict(self, path: str | Path) -> tuple[np.ndarray, np.ndarray]:
        """Image (RGB uint8 ``(H, W, 3)``) and prediction ``(H, W)`` of an image file, at its own size.

        Raises:
            DataError: the file does not decode as an image.
        """
        loaded = self.load(dict(img_path=str(path)))
        image = loaded['img'][..., ::-1].copy()
        (sample,) = self.model.test_step(pseudo_collate([self.prepare(loaded)]))
        return image, self.result(sample)

    @abstractmethod
    def result(self, sample: object) -> np.ndarray:
        """What a sample holds: uint8 class numbers or float32 metres, ``(H, W)``."""

    @abstractmethod
    def picture(self, image: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Image and prediction side by side with a legend: RGB uint8. The arguments are what `predict` returns."""

    @abstractmethod
    def files(self, image: np.ndarray, prediction: np.ndarray) -> list[bytes]:
        """The content of a file for each of ``endings``."""


class Segmenter(Predictor):
    """A segmentation model.

    Attributes:
        classes: names. palette: RGB of each class.
        values: ``(classes,)`` uint8, each class's value in the data set's label files.
    """

    endings = ('.png', '_picture.png')

    def __init__(self, cfg: Config, checkpoint: str | Path) -> None:
        super().__init__(cfg, checkpoint)
        data = cfg.test_dataloader.dataset
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
        # stored = class + 1 where 0 is 'ignored'; a data set read with some of its classes renumbers them
        stored = {new: old for old, new in (dataset.label_map or {}).items() if new != 255}
        offset = int(dataset.metainfo['reduce_zero_label'])
        self.values = np.array([stored.get(i, i) + offset for i in range(len(self.classes))], np.uint8)

    def result(self, sample: object) -> np.ndarray:
        """Class numbers, uint8 ``(H, W)``."""
        return sample.pred_sem_seg.data[0].byte().cpu().numpy()

    def picture(self, image: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Image and coloured prediction with a legend of the classes: RGB uint8."""
        return segmentation_panel(image, prediction, None, self.classes, self.palette)

    def files(self, image: np.ndarray, prediction: np.ndarray) -> list[bytes]:
        """The label map in the values of the data set's own label files, and the picture."""
        return [png(self.values[prediction]), png(self.picture(image, prediction))]


class DepthPredictor(Predictor):
    """A depth model.

    Attributes:
        max_depth: the far end of the picture's colours, metres.
    """

    endings = ('.png', '_picture.png', '.npz')

    def __init__(self, cfg: Config, checkpoint: str | Path) -> None:
        super().__init__(cfg, checkpoint)
        self.max_depth = self.model.decode_head.max_depth

    def result(self, sample: object) -> np.ndarray:
        """Metres, float32 ``(H, W)``."""
        return sample.pred_depth_map.data[0].float().cpu().numpy()

    def picture(self, image: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Image and depth in colours, over a bar with their metres: RGB uint8."""
        return depth_panel(image, prediction, None, self.max_depth)

    def files(self, image: np.ndarray, prediction: np.ndarray) -> list[bytes]:
        """The depth as a 16-bit PNG of 1/256 metres, the picture, and ``depth`` in metres as float32."""
        stored = np.clip(np.round(prediction * PNG_METRES), 1, 2**16 - 1).astype(np.uint16)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, depth=prediction)
        return [png(stored), png(self.picture(image, prediction)), buffer.getvalue()]


def predictor_of(cfg: Config, checkpoint: str | Path) -> Predictor:
    """The predictor for a config's task.

    Raises:
        UserError: a model of image labels.
    """
    if 'decode_head' not in cfg.model:
        raise UserError(f'{checkpoint}: {cfg.model.type} predicts no map of an image; tools/test.py gives its scores')
    return (Segmenter if 'num_classes' in cfg.model.decode_head else DepthPredictor)(cfg, checkpoint)


def png(array: np.ndarray) -> bytes:
    """An array as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, 'PNG')
    return buffer.getvalue()
