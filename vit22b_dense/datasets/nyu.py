"""NYU Depth v2 as the lists of depth papers name it."""

from pathlib import Path
from typing import Any

from mmseg.registry import DATASETS

from .depth_dataset import DepthDataset
from .depth_list import read_depth_list


@DATASETS.register_module()
class NYUDepthDataset(DepthDataset):
    """The images of a list. Few-shot subsets keep or leave whole scenes.

    ::

        DATA_ROOT/IMG_PATH/SCENE/rgb_FRAME.jpg            images, 640x480
        DATA_ROOT/DEPTH_PATH/SCENE/sync_depth_FRAME.png   depth, uint16 / 1000 = metres

    An item tells ``img_path``, ``depth_path`` and ``segment``, the scene.

    Args:
        data_root: the folder above all others.
        data_prefix: ``dict(img_path='sync', depth_path='sync')``.
        ann_file: the list, see `read_depth_list`.
        common: the other arguments of `DepthDataset`.

    Raises:
        DataError: the list is missing or is not one.

    Source: Silberman et al., Indoor Segmentation and Support Inference from RGBD Images; lists and folders as with
    BTS, arXiv 1907.10326.
    """

    def __init__(self, data_root: str, data_prefix: dict, ann_file: str, **common: Any) -> None:
        super().__init__(data_root, data_prefix, ann_file, **common)

    def load_data_list(self) -> list[dict]:
        """One item an image, in the order of the list."""
        images, depths = (Path(self.data_prefix[name]) for name in ('img_path', 'depth_path'))
        return [
            dict(img_path=str(images / image), depth_path=str(depths / depth), segment=Path(image).parent.name)
            for image, depth in read_depth_list(self.ann_file)
        ]
