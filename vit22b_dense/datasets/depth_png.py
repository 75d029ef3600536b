"""Depth maps stored as 16-bit PNG."""

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmseg.registry import TRANSFORMS

from .depth_transforms import set_points
from .loading import DataError


@TRANSFORMS.register_module()
class LoadDepthPNG(BaseTransform):
    """Load ``results['depth_path']``, a 16-bit PNG of metres times ``scale``, 0 = none, as points.

    An image without that path passes through: one to predict.

    Args:
        scale: stored values per metre.

    Source: KITTI's depth devkit; NYU Depth v2 has 1000 per metre.
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
        except (cv2.error, OSError) as error:
            raise DataError(f'{path}: does not decode as a depth map ({error}); replace it or drop it') from error
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
