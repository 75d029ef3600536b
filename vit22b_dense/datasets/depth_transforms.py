"""Sparse depth in a pipeline: kept as points through resizing, cropping and flipping, made a map at the very end.

The points are ``depth_points``, (N, 3) float32: x, y in pixels of a picture of ``depth_shape`` (height, width), the
middle of its first pixel being (0.5, 0.5), and depth in metres. A depth is never interpolated or averaged: where
several points meet in a pixel, the nearest one stays.
"""

import io
import zipfile
import zlib

import numpy as np
from mmcv.transforms import BaseTransform, RandomFlip, Resize
from mmengine import fileio
from mmseg.datasets.transforms import PackSegInputs, RandomCrop
from mmseg.registry import TRANSFORMS

from .loading import DataError, check_sum


def rasterise(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Points (N, 3) to a map ``(H, W)`` float32 in metres, 0 = none; nearest wins, points outside are dropped."""
    depth = np.zeros(shape, np.float32)
    column, row = np.floor(points[:, :2].T).astype(np.int64)
    inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
    kept = np.flatnonzero(inside)
    # Farthest first: where an index repeats, the last assignment holds.
    kept = kept[np.argsort(-points[kept, 2], kind='stable')]
    depth[row[kept], column[kept]] = points[kept, 2]
    return depth


def set_points(results: dict, x: np.ndarray, y: np.ndarray, depth: np.ndarray, shape: tuple[int, int]) -> None:
    """Put whole pixels x, y (N,) with their depth (N,) of a picture (height, width) into a pipeline's results."""
    results['depth_points'] = np.stack([x + 0.5, y + 0.5, depth], axis=1).astype(np.float32)
    results['depth_shape'] = tuple(shape)


@TRANSFORMS.register_module()
class LoadSparseDepth(BaseTransform):
    """Load ``results['depth_path']``, an ``.npz`` of `x`, `y` (pixels) and `depth` (metres) beside the image.

    Before `DepthResize` in training; behind it in testing, so that the scores are at the original resolution. An image
    without that path passes through: one to predict.
    """

    def transform(self, results: dict) -> dict:
        """Add ``depth_points`` and ``depth_shape``.

        Raises:
            DataError: no such file, damaged, points outside the image, or depths that are not positive and finite.
        """
        if 'depth_path' not in results:
            return results
        path, shape = results['depth_path'], results['ori_shape']
        try:
            data = fileio.get(path)
            check_sum(path, data, results.get('depth_crc32'))
            with np.load(io.BytesIO(data)) as file:
                x, y, depth = (file[name] for name in ('x', 'y', 'depth'))
        except DataError:
            raise
        except FileNotFoundError as error:
            raise DataError(f'{path}: no depth for {results["img_path"]}; prepare the segment again') from error
        except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zlib.error, zipfile.BadZipFile) as error:
            raise DataError(f'{path}: cannot be read as sparse depth ({error}); prepare the segment again') from error
        if wrong := _wrong(x, y, depth, shape):
            raise DataError(f'{path}: {wrong}; prepare the segment again')
        set_points(results, x, y, depth, shape)
        return results


def _wrong(x: np.ndarray, y: np.ndarray, depth: np.ndarray, shape: tuple[int, int]) -> str:
    """What is wrong with points; empty where nothing is."""
    if x.ndim != 1 or not (x.shape == y.shape == depth.shape):
        return f'x, y and depth are {x.shape}, {y.shape} and {depth.shape}, which should be equal'
    if x.dtype.kind not in 'iu' or y.dtype.kind not in 'iu' or depth.dtype.kind != 'f':
        return f'x, y and depth are {x.dtype}, {y.dtype} and {depth.dtype}, which should be integers and a float'
    if not len(x):
        return ''
    if not (x.min() >= 0 <= y.min() and x.max() < shape[1] and y.max() < shape[0]):
        return f'has pixels up to ({x.max()}, {y.max()}), outside its image of {shape[1]}x{shape[0]}'
    if not (depth.min() > 0 and depth.max() < np.inf):  # not so either where one is NaN
        return f'has depths of {depth.min()} to {depth.max()}, which should be above 0 and finite'
    return ''


def _check_frame(results: dict) -> None:
    if 'depth_points' in results and results['depth_shape'] != results['img'].shape[:2]:
        raise ValueError(
            f'the depth is of a picture {results["depth_shape"]}, the image is {results["img"].shape[:2]} now: load '
            'the depth before changing the image, or change the image before loading the depth'
        )


@TRANSFORMS.register_module()
class DepthResize(Resize):
    """mmcv's `Resize` that moves the depth's points along; its arguments. Depths themselves do not change."""

    def transform(self, results: dict) -> dict:
        """Resize the image and move the points."""
        _check_frame(results)
        results = super().transform(results)
        if 'depth_points' in results:
            # A new array: the old one may be somebody else's.
            results['depth_points'] = results['depth_points'] * np.float32([*results['scale_factor'], 1])
            results['depth_shape'] = results['img'].shape[:2]
        return results


@TRANSFORMS.register_module()
class DepthRandomCrop(RandomCrop):
    """mmseg's `RandomCrop` that takes the depth's points along.

    Args:
        crop_size: (height, width) in pixels.
    """

    def __init__(self, crop_size: tuple[int, int]) -> None:
        super().__init__(tuple(crop_size))

    def transform(self, results: dict) -> dict:
        """Crop the image and keep the points inside."""
        _check_frame(results)
        box = top, _, left, _ = self.crop_bbox(results)
        results['img'] = self.crop(results['img'], box)
        results['img_shape'] = height, width = results['img'].shape[:2]
        if 'depth_points' in results:
            moved = results['depth_points'] - np.float32([left, top, 0])
            inside = (moved[:, :2] >= 0).all(1) & (moved[:, 0] < width) & (moved[:, 1] < height)
            results['depth_points'] = moved[inside]
            results['depth_shape'] = (height, width)
        return results


@TRANSFORMS.register_module()
class DepthRandomFlip(RandomFlip):
    """mmcv's `RandomFlip` that mirrors the depth's points along; its arguments."""

    def _flip(self, results: dict) -> None:
        _check_frame(results)
        super()._flip(results)
        if 'depth_points' in results:
            points, (height, width) = results['depth_points'].copy(), results['depth_shape']
            if results['flip_direction'] in ('horizontal', 'diagonal'):
                points[:, 0] = width - points[:, 0]
            if results['flip_direction'] in ('vertical', 'diagonal'):
                points[:, 1] = height - points[:, 1]
            results['depth_points'] = points


@TRANSFORMS.register_module()
class PackDepthInputs(PackSegInputs):
    """mmseg's `PackSegInputs` for sparse depth: ``gt_depth_map`` ``(1, H, W)`` float32 in metres, 0 = none.

    Args:
        meta_keys: what goes into the sample's metainfo.
    """

    def __init__(
        self,
        meta_keys: tuple[str, ...] = (
            'img_path', 'depth_path', 'segment', 'timestamp', 'camera', 'ori_shape', 'img_shape', 'pad_shape',
            'scale_factor', 'flip', 'flip_direction',
        ),
    ) -> None:  # fmt: skip
        super().__init__(meta_keys)

    def transform(self, results: dict) -> dict:
        """Make the map from the points and pack."""
        if 'depth_points' in results:
            results['gt_depth_map'] = rasterise(results['depth_points'], results['depth_shape'])
        return super().transform(results)
