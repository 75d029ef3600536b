"""Images and label maps in two folders, paired by name: a data set of your own."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .listing import IMAGE_SUFFIXES, kind, no_images, some, walk
from .loading import DataError

LABEL_SUFFIXES = ('.png',)


@DATASETS.register_module()
class FolderSegDataset(BaseSegDataset):
    """Images of any usual format, and for each a PNG label map of the same name in another folder.

    ::

        DATA_ROOT/IMG_PATH/SPLIT/NAME.{jpg,png,tif,...}    in upper or lower case, formats may be mixed
        DATA_ROOT/SEG_MAP_PATH/SPLIT/NAME.png              8 bit: 0 .. classes - 1, 255 is ignored

    NAME may contain folders; files and folders whose names begin with a dot are left out. Items are in the order of
    the image paths, or of the list.

    Args:
        metainfo: ``dict(classes=[...])`` in the order of the label values, and if wanted ``palette``, RGB of each.
        data_root: folder above both.
        data_prefix: ``dict(img_path=..., seg_map_path=...)``; without ``seg_map_path`` images alone.
        split: folder below each of the two; '' where there is none.
        ann_file: a list of the names to take, one a line, without suffix; '' for all. Of all, each image needs a
            label map and each label map an image.
        reduce_zero_label: 0 is ignored, and classes start at 1.
        pipeline, test_mode, indices, serialize_data, lazy_init, max_refetch: as in mmengine.

    Raises:
        DataError: no classes are given; no images, images without label maps or label maps without images (counted
            and named); two files of one name; a broken link, a folder or something else that is named like a file of
            the data set; listed names that are not there.
    """

    def __init__(
        self,
        metainfo: dict | None = None,
        data_root: str | None = None,
        data_prefix: dict | None = None,
        split: str = '',
        ann_file: str = '',
        reduce_zero_label: bool = False,
        pipeline: Sequence = (),
        test_mode: bool = False,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        lazy_init: bool = False,
        max_refetch: int = 1000,
    ) -> None:
        if not (metainfo or {}).get('classes'):
            raise DataError('FolderSegDataset: give metainfo=dict(classes=[...]), in the order of the label values')
        self.split = split
        super().__init__(
            metainfo=metainfo,
            data_root=data_root,
            data_prefix=dict(data_prefix or dict(img_path='')),
            ann_file=ann_file,
            reduce_zero_label=reduce_zero_label,
            pipeline=list(pipeline),
            test_mode=test_mode,
            indices=indices,
            serialize_data=serialize_data,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
        )

    def load_data_list(self) -> list[dict]:
        """One item an image."""
        folder = Path(self.data_prefix['img_path'], self.split)
        images = _files(folder, IMAGE_SUFFIXES)
        if not images:
            raise no_images(folder)
        if self.ann_file:
            names = self._listed(images, folder)
        else:
            names = sorted(images, key=lambda name: images[name][0])
        values = range(len(self.metainfo['classes']))
        common = dict(label_map=dict(zip(values, values, strict=True)), reduce_zero_label=self.reduce_zero_label)
        paths = _paths(folder, [images[name] for name in names])
        items = [dict(img_path=path, **common, seg_fields=[]) for path in paths]
        if self.data_prefix.get('seg_map_path'):
            folder = Path(self.data_prefix['seg_map_path'], self.split)
            labels = _files(folder, LABEL_SUFFIXES)
            self._check_pairs({name: images[name][0] for name in names}, labels, folder)
            for item, path in zip(items, _paths(folder, [labels[name] for name in names]), strict=True):
                item['seg_map_path'] = path
        return items

    def _listed(self, images: dict[str, list[str]], folder: Path) -> list[str]:
        try:
            lines = Path(self.ann_file).read_text(encoding='utf-8').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f'{self.ann_file}: cannot be read as a list of names ({error})') from error
        names = [line.strip() for line in lines if line.strip()]
        absent = [name for name in names if name not in images]
        if absent or not names:
            raise DataError(
                f'{self.ann_file}: {len(absent)} of its {len(names)} names have no image in {folder}'
                f'{some(absent)}; a line is a name below that folder, without suffix'
            )
        return names

    def _check_pairs(self, images: dict[str, str], labels: dict[str, list[str]], folder: Path) -> None:
        alone = [file for name, file in images.items() if name not in labels]
        surplus = [] if self.ann_file else [files[0] for name, files in labels.items() if name not in images]
        found = []
        if alone:
            found.append(f'{len(alone)} of {len(images)} images have no label map here, NAME.png{some(alone)}')
        if surplus:
            found.append(f'{len(surplus)} of {len(labels)} label maps have no image{some(surplus)}')
        if found:
            raise DataError(
                f'{folder}: {"; ".join(found)}. Add what is missing, or name the images to be used in a list '
                '(ann_file=FILE in the config)'
            )


def _files(folder: Path, suffixes: Iterable[str]) -> dict[str, list[str]]:
    """What has one of some suffixes below a folder: by name without suffix, the paths relative to the folder."""
    found = defaultdict(list)
    for path in walk(folder, suffixes):
        relative = path.relative_to(folder)
        found[str(relative.with_suffix(''))].append(str(relative))
    return found


def _paths(folder: Path, found: list[list[str]]) -> list[str]:
    """The path of each name's file.

    Raises:
        DataError: there are several of one name, or some are no files.
    """
    double = [' and '.join(sorted(files)) for files in found if len(files) > 1]
    if double:
        raise DataError(
            f'{folder}: {len(double)} of {len(found)} names belong to several files{some(double)}; keep one of each'
        )
    paths = [folder / file for (file,) in found]
    wrong = [f'{path.name}: {kind(path)}' for path in paths if not path.is_file()]
    if wrong:
        raise DataError(
            f'{folder}: {len(wrong)} of {len(paths)} are named like files of the data set and are none{some(wrong)}; '
            'remove or rename them'
        )
    return list(map(str, paths))
