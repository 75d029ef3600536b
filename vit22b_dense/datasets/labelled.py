"""Images with the classes that they show: a folder for each class, or a text file for each image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import BaseTransform, to_tensor
from mmengine.dataset import BaseDataset
from mmengine.structures import BaseDataElement, LabelData
from mmseg.registry import DATASETS, TRANSFORMS

from .listing import IMAGE_SUFFIXES, no_images, some, walk
from .loading import DataError

META = ('img_path', 'ori_shape', 'img_shape')


@DATASETS.register_module()
class LabelledImages(BaseDataset):
    """Images of any usual format and the classes of each, in one of two layouts.

    ::

        DATA_ROOT/IMG_PATH/SPLIT/CLASS/NAME.{jpg,png,...}     one class each: a folder per class

        DATA_ROOT/IMG_PATH/SPLIT/NAME.{jpg,png,...}           any number of classes
        DATA_ROOT/LABEL_PATH/SPLIT/NAME.txt                   the names of its classes, one a line; or none

    NAME may contain folders; files and folders whose names begin with a dot are left out. Items are in the order of
    the image paths, and have ``img_path`` and ``labels``, class numbers.

    Args:
        metainfo: ``dict(classes=[...])``.
        data_root: folder above both.
        data_prefix: ``dict(img_path=...)`` for a folder per class, with ``label_path=...`` for text files.
        split: folder below each of the two; '' where there is none.
        pipeline, test_mode: as in mmengine.

    Raises:
        DataError: no classes are given; no images; a folder or a line that is none of the classes; images without a
            text file.
    """

    def __init__(
        self,
        metainfo: dict | None = None,
        data_root: str = '',
        data_prefix: dict | None = None,
        split: str = '',
        pipeline: Sequence = (),
        test_mode: bool = False,
    ) -> None:
        if not (metainfo or {}).get('classes'):
            raise DataError('LabelledImages: give metainfo=dict(classes=[...])')
        self.split = split
        super().__init__(
            metainfo=metainfo,
            data_root=data_root,
            data_prefix=dict(data_prefix or dict(img_path='')),
            pipeline=list(pipeline),
            test_mode=test_mode,
        )

    def load_data_list(self) -> list[dict]:
        """One item an image."""
        folder = Path(self.data_prefix['img_path'], self.split)
        images = sorted(walk(folder, IMAGE_SUFFIXES))
        if not images:
            raise no_images(folder)
        numbers = {name: i for i, name in enumerate(self.metainfo['classes'])}
        names = [path.relative_to(folder) for path in images]
        label_path = self.data_prefix.get('label_path')
        found = self._from_files(Path(label_path, self.split), names) if label_path else _from_folders(folder, names)
        unknown = {label for labels in found for label in labels} - set(numbers)
        if unknown:
            raise DataError(
                f'{label_path or folder}: {len(unknown)} of its classes are not among the {len(numbers)} of the config'
                f'{some(unknown)}; complete metainfo.classes'
            )
        return [
            dict(img_path=str(path), labels=sorted({numbers[label] for label in labels}))
            for path, labels in zip(images, found, strict=True)
        ]

    @staticmethod
    def _from_files(folder: Path, names: list[Path]) -> list[list[str]]:
        paths = [folder / name.with_suffix('.txt') for name in names]
        absent = [path.name for path in paths if not path.is_file()]
        if absent:
            raise DataError(
                f'{folder}: {len(absent)} of {len(paths)} images have no text file here{some(absent)}. Add NAME.txt '
                'with the names of its classes, one a line; an empty one for none'
            )
        try:
            return [[line.strip() for line in path.read_text('utf-8').splitlines() if line.strip()] for path in paths]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f'{folder}: a list of classes cannot be read ({error})') from error


def _from_folders(folder: Path, names: list[Path]) -> list[list[str]]:
    stray = [name.name for name in names if len(name.parts) < 2]
    if stray:
        raise DataError(
            f'{folder}: {len(stray)} of {len(names)} images are in no folder of a class{some(stray)}. Move them, or '
            'use text files (data_prefix=dict(img_path=..., label_path=...))'
        )
    return [[name.parts[0]] for name in names]


@TRANSFORMS.register_module()
class PackLabelInputs(BaseTransform):
    """The image and its labels, as `ImageClassifier` takes them.

    Gives ``inputs``, the image ``(3, H, W)`` uint8, and ``data_samples`` with ``img_path``, the sizes before and after
    the pipeline, and where labels are known ``gt_label.score`` ``(num_classes,)``, 1.0 for each class that is shown.

    Args:
        num_classes: of the data set.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def transform(self, results: dict) -> dict:
        """Pack ``results['img']`` ``(H, W, 3)`` and ``results['labels']``."""
        sample = BaseDataElement(metainfo={key: results[key] for key in META if key in results})
        if 'labels' in results:
            score = torch.zeros(self.num_classes)
            score[results['labels']] = 1
            sample.gt_label = LabelData(score=score)
        image = np.ascontiguousarray(results['img'].transpose(2, 0, 1))
        return dict(inputs=to_tensor(image), data_samples=sample)
