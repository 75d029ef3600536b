"""KITTI's annotated depth maps with the images of its raw drives, in the official folder layout."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmseg.registry import DATASETS

from .depth_dataset import DepthDataset
from .depth_list import read_depth_list
from .loading import DataError

LISTED = re.compile(r'(?P<drive>[^/]+)/proj_depth/groundtruth/[^/]+/\d+\.png')


@DATASETS.register_module()
class KITTIDepthDataset(DepthDataset):
    """The images that have annotated depth. Few-shot subsets keep or leave whole drives.

    ::

        DATA_ROOT/IMG_PATH/DATE/DRIVE/image_0{2,3}/data/FRAME.png                  images
        DATA_ROOT/DEPTH_PATH/DRIVE/proj_depth/groundtruth/image_0{2,3}/FRAME.png   depth, uint16 / 256 = metres

    with DRIVE such as ``2011_09_26_drive_0001_sync`` and DATE its first ten letters. An item tells ``img_path``,
    ``depth_path``, ``segment`` (the drive), ``timestamp`` (the frame's number) and ``camera`` (``image_02``, …).

    Args:
        data_root: the folder above both.
        data_prefix: ``dict(img_path='raw', depth_path='data_depth_annotated/train')``. With a list the drives may also
            lie in ``train`` and ``val`` below ``depth_path``, since Eigen's split takes from both.
        cameras: folders of the cameras to take.
        ann_file: a list of the frames to take, such as Eigen's, see `read_depth_list`; without, all that have depth.
        common: the other arguments of `DepthDataset`.

    Raises:
        DataError: no depth map is found, the list is not one, or it names a drive that is not there.

    Source: Sparsity Invariant CNNs, arXiv 1708.06500 (the annotated depth maps); Eigen et al., arXiv 1406.2283 (the
    split).
    """

    def __init__(
        self,
        data_root: str,
        data_prefix: dict,
        cameras: Sequence[str] = ('image_02', 'image_03'),
        ann_file: str = '',
        **common: Any,
    ) -> None:
        self.cameras = tuple(cameras)
        super().__init__(data_root, data_prefix, ann_file, **common)

    def load_data_list(self) -> list[dict]:
        """One item a frame, in the order of the list, or of drives, cameras and frames."""
        images, depths = (Path(self.data_prefix[name]) for name in ('img_path', 'depth_path'))
        pairs = self._listed(images, depths) if self.ann_file else _found(images, depths)
        items = [
            dict(
                img_path=str(image),
                depth_path=str(depth),
                segment=depth.parents[3].name,
                timestamp=int(depth.stem),
                camera=depth.parent.name,
            )
            for image, depth in pairs
            if depth.parent.name in self.cameras
        ]
        if not items:
            raise DataError(
                f'{self.ann_file or depths}: no DRIVE/proj_depth/groundtruth/CAMERA/*.png of the cameras '
                f'{", ".join(self.cameras)}'
            )
        return items

    def _listed(self, images: Path, depths: Path) -> list[tuple[Path, Path]]:
        folders, pairs = {}, []
        for image, depth in read_depth_list(self.ann_file):
            match = LISTED.fullmatch(depth)
            if not match:
                raise DataError(f'{self.ann_file}: {depth}: not DRIVE/proj_depth/groundtruth/CAMERA/FRAME.png')
            drive = match['drive']
            if drive not in folders:
                places = [depths, depths / 'train', depths / 'val']
                folders[drive] = next((place for place in places if (place / drive).is_dir()), None)
            if folders[drive] is None:
                raise DataError(
                    f'{self.ann_file}: names the drive {drive}, which is neither in {depths} nor in train or val '
                    'below it'
                )
            pairs.append((images / image, folders[drive] / depth))
        return pairs


def _found(images: Path, depths: Path) -> list[tuple[Path, Path]]:
    """Each depth map of a folder with its image."""
    pairs = []
    for depth in sorted(depths.glob('*/proj_depth/groundtruth/*/*.png')):
        drive, camera = depth.parents[3].name, depth.parent.name
        pairs.append((images / drive[:10] / drive / camera / 'data' / depth.name, depth))
    return pairs
