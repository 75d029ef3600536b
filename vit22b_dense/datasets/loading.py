"""Reading images and label maps, with errors that name the file and what to do."""

import io
import zlib

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS
from PIL import Image

from ..errors import UserError
from ..registry import TRANSFORMS as OUR_TRANSFORMS

ORIENTATION = 0x0112  # EXIF tag; 1 is upright


class DataError(UserError):
    """A file of a data set that cannot be used as it is."""


@OUR_TRANSFORMS.register_module('LoadImageFromFile')
@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's `LoadImageFromFile` (BGR uint8 ``(H, W, 3)``) whose failures name the file.

    In configs also ``dict(type='LoadImageFromFile', _scope_='vit22b_dense')``, which mmseg's inferencer recognises.
    """

    def transform(self, results: dict) -> dict:
        """Load ``results['img_path']``.

        Raises:
            DataError: no such file, it does not decode as an image, it is not of the size or checksum that the
                data set tells (``stored_shape``, ``img_crc32``), or it has ground truth and is turned by its EXIF
                orientation.
        """
        path = results['img_path']
        try:
            data = fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise DataError(f'{path}: no such image; is the data set complete?') from error
        check_sum(path, data, results.get('img_crc32'))
        try:
            image = mmcv.imfrombytes(data, flag=self.color_type, backend=self.imdecode_backend)
        except Exception as error:
            raise DataError(f'{path}: does not decode as an image ({error}); replace it or drop it') from error
        if image is None or _cut_off(data):
            raise DataError(f'{path}: does not decode as a whole image; replace it or drop it')
        shape, told = image.shape[:2], results.get('stored_shape')
        if told and tuple(told) != shape:
            raise DataError(
                f'{path}: an image of {shape[1]}x{shape[0]} pixels, its index says {told[1]}x{told[0]}; prepare the '
                'segment again'
            )
        if 'seg_map_path' in results or 'depth_path' in results:
            _refuse_turned(path, data)
        results.update(img=image.astype(np.float32) if self.to_float32 else image, img_shape=shape, ori_shape=shape)
        return results


def check_sum(path: str, data: bytes, expected: int | None) -> None:
    """Refuse what has changed since its data set was prepared; None for files without a checksum."""
    if expected is not None and zlib.crc32(data) != expected:
        raise DataError(f'{path}: has changed since it was prepared, or is damaged; prepare the segment again')


def _cut_off(data: bytes) -> bool:
    """Whether it is a JPEG without its end, which OpenCV fills up with grey."""
    return data.startswith(b'\xff\xd8') and data.rfind(b'\xff\xd9', len(data) // 2) < 0


def _refuse_turned(path: str, data: bytes) -> None:
    """Refuse an image that is turned when it is read, while nothing says how its ground truth lies."""
    try:
        with Image.open(io.BytesIO(data)) as file:
            orientation = file.getexif().get(ORIENTATION, 1)
    except Exception:  # OpenCV has decoded it; what PIL cannot read has no tag
        return
    if orientation != 1:
        raise DataError(
            f'{path}: its EXIF orientation is {orientation}, so it is turned or mirrored when it is read, and its '
            'ground truth is not. Save the image with its pixels turned, or without the tag'
        )


@TRANSFORMS.register_module()
class LoadLabels(LoadAnnotations):
    """mmseg's `LoadAnnotations` for label maps that are checked before they are used.

    Args:
        num_classes: of the data set. Label values must lie below it (with ``reduce_zero_label`` up to it, since 0
            then means ignored), or be 255, which is ignored. Where a data set is read with some of its classes, its
            ``label_map`` tells which values there are; `FolderSegDataset` has one in any case, and needs no number.

    An image without ``seg_map_path`` passes through: one to predict.

    Source: the label conventions are mmseg's (``reduce_zero_label``, ``label_map``, 255 as ignored).
    """

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes

    def _load_seg_map(self, results: dict) -> None:
        if 'seg_map_path' not in results:
            return
        path = results['seg_map_path']
        try:
            label = mmcv.imfrombytes(fileio.get(path), flag='unchanged', backend='pillow')
        except FileNotFoundError as error:
            raise DataError(
                f'{path}: no label map for {results.get("img_path")}; is the data set complete?'
            ) from error
        except Exception as error:
            raise DataError(f'{path}: does not decode as a label map ({error}); replace it or drop it') from error
        if label.ndim != 2:
            raise DataError(
                f'{path}: has {label.shape[2]} channels; a label map has one, holding class numbers (or a palette): '
                'convert colours to class numbers first'
            )
        image_size = results.get('ori_shape')
        if image_size is not None and label.shape != tuple(image_size):
            raise DataError(
                f'{path}: label map of {label.shape[1]}x{label.shape[0]} pixels for the image '
                f'{results.get("img_path")} of {image_size[1]}x{image_size[0]}; they must match'
            )
        table = self._table(results)
        # Look-up by value; values beyond 8 bits meet the last entry, which is always refused.
        mapped = table[label if label.dtype == np.uint8 else np.clip(label.astype(np.int64), -1, 256)]
        if (mapped < 0).any():
            found = sorted({int(value) for value in np.unique(label[mapped < 0])})
            shown = ', '.join(map(str, found[:10])) + (', …' if len(found) > 10 else '')
            stored = len(results.get('label_map') or ()) or self.num_classes
            low, high = (1, stored) if results.get('reduce_zero_label') else (0, stored - 1)
            raise DataError(
                f'{path}: label value {shown} outside the {stored} classes; allowed are {low}..{high} and '
                f'255 (ignored){", and 0 (ignored)" if low else ""}. Check num_classes and reduce_zero_label, or map '
                'the value to 255'
            )
        results['gt_seg_map'] = mapped.astype(np.uint8)
        results['seg_fields'].append('gt_seg_map')

    def _table(self, results: dict) -> np.ndarray:
        """From a stored value 0..256 to a training label; -1 is refused."""
        table = np.full(257, -1, dtype=np.int16)
        table[255] = 255
        first = int(bool(results.get('reduce_zero_label')))
        if first:
            table[0] = 255
        label_map = results.get('label_map')
        if label_map is None:
            if self.num_classes is None:
                raise UserError('LoadLabels: give num_classes, this data set does not tell which label values it has')
            table[first : first + self.num_classes] = np.arange(self.num_classes)
        else:
            for old, new in label_map.items():
                table[old + first] = new
        return table
