"""Reading images and label maps, with errors that name the file and what to do."""

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from ..errors import UserError
from ..registry import TRANSFORMS as OUR_TRANSFORMS


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
            DataError: no such file, or it does not decode as an image.
        """
        path = results['img_path']
        try:
            loaded = super().transform(results)
        except FileNotFoundError as error:
            raise DataError(f'{path}: no such image; is the data set complete?') from error
        except Exception as error:
            raise DataError(f'{path}: does not decode as an image ({error}); replace it or drop it') from error
        if loaded is None or loaded['img'] is None:
            raise DataError(f'{path}: does not decode as an image; replace it or drop it')
        return loaded


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
