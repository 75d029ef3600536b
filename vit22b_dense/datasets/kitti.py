"""KITTI's annotated depth maps with the images of its raw drives, in the official folder layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmengine.dataset import BaseDataset
from mmseg.registry import DATASETS, TRANSFORMS

from .depth_transforms import set_points
from .loading import DataError


@DATASETS.register_module()
class KITTIDepthDataset(BaseDataset):
    """The images that have annotated depth. Few-shot subsets keep or leave whole drives.

    ::

        DATA_ROOT/DEPTH_PATH/DRIVE/proj_depth/groundtruth/image_0{2,3}/FRAME.png   depth, uint16 / 256 = metres
        DATA_ROOT/IMG_PATH/DATE/DRIVE/image_0{2,3}/data/FRAME.png                  images

    with DRIVE such as ``2011_09_26_drive_0001_sync`` and DATE its first ten letters. An item tells ``img_path``,
    ``depth_path``, ``segment`` (the drive), ``timestamp`` (the frame's number) and ``camera`` (``image_02``, …).

    Args:
        data_root: the folder above both.
        data_prefix: ``dict(img_path='raw', depth_path='data_depth_annotated/train')``.
        cameras: folders of the cameras to take.
        pipeline, test_mode, metainfo, indices, serialize_data, lazy_init, max_refetch: as in mmengine.

    Raises:
        DataError: no depth map is found.

    Source: Sparsity Invariant CNNs, arXiv 1708.06500 (the annotated depth maps).
    """

    METAINFO: ClassVar[dict] = dict(classes=(), palette=[])  # mmseg asks for both
    few_shot_unit = 'segment'

    def __init__(
        self,
        data_root: str,
        data_prefix: dict,
        cameras: Sequence[str] = ('image_02', 'image_03'),
        pipeline: Sequence = (),
        test_mode: bool = False,
        metainfo: dict | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        lazy_init: bool = False,
        max_refetch: int = 1000,
    ) -> None:
        self.cameras = tuple(cameras)
        super().__init__(
            metainfo=metainfo,
            data_root=data_root,
            data_prefix=dict(data_prefix),
            indices=indices,
            serialize_data=serialize_data,
            pipeline=list(pipeline),
            test_mode=test_mode,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
        )

    def load_data_list(self) -> list[dict]:
        """One item a depth map, in the order of drives, cameras and frames."""
        images, depths = (Path(self.data_prefix[name]) for name in ('img_path', 'depth_path'))
        items = []
        for path in sorted(depths.glob('*/proj_depth/groundtruth/*/*.png')):
            drive, camera = path.parents[3].name, path.parent.name
            if camera in self.cameras:
                image = images / drive[:10] / drive / camera / 'data' / path.name
                items.append(
                    dict(
                        img_path=str(image),
                        depth_path=str(path),
                        segment=drive,
                        timestamp=int(path.stem),
                        camera=camera,
                    )
                )
        if not items:
            raise DataError(
                f'{depths}: no DRIVE/proj_depth/groundtruth/CAMERA/*.png of the cameras {", ".join(self.cameras)}'
            )
        return items


@TRANSFORMS.register_module()
class LoadDepthPNG(BaseTransform):
    """Load ``results['depth_path']``, a 16-bit PNG of metres times ``scale``, 0 = none, as points.

    An image without that path passes through: one to predict.

    Args:
        scale: stored values per metre.

    Source: KITTI's depth devkit.
    """

    def __init__(self, scale: float = 256.0) -> None:
        self.scale = scale

    def transform(self, results: dict) -> dict:
        """Add ``depth_points`` and ``depth_shape``.

        Raises:
            DataError: no such file, damaged, not 16 bit, or not of the image's size.
        """
        if 'depth_path' not in results:
            return results
        path, shape = results['depth_path'], tuple(results['ori_shape'][:2])
        try:
            stored = mmcv.imfrombytes(fileio.get(path), flag='unchanged', backend='cv2')
        except FileNotFoundError as error:
            raise DataError(f'{path}: no depth map for {results["img_path"]}') from error
        if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
            found = 'does not decode' if stored is None else f'holds {stored.dtype} of shape {stored.shape}'
            raise DataError(f'{path}: {found}; a depth map is a 16-bit PNG of one channel')
        if stored.shape != shape:
            raise DataError(
                f'{path}: depth map of {stored.shape[1]}x{stored.shape[0]} pixels for the image '
                f'{results["img_path"]} of {shape[1]}x{shape[0]}; they must match'
            )
        y, x = np.nonzero(stored)
        set_points(results, x, y, stored[y, x] / self.scale, shape)
        return results
