"""Whether a data set's files are all there, and all of them in the data set: found out before the first is read."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset
from mmseg.datasets import BaseSegDataset

from .folder import FolderSegDataset
from .listing import IMAGE_SUFFIXES, kind, some, walk
from .loading import DataError

FILES = {'img_path': 'images', 'seg_map_path': 'label maps', 'depth_path': 'depth maps'}


def check_complete(dataset: Any) -> None:
    """Look for every file of a data set, and in its folders for images and label maps that it leaves out.

    A folder is listed once, so that this takes about as long as making the list did.

    Args:
        dataset: a data set of mmengine's, or a wrapper of one or several.

    Raises:
        DataError: files are missing or no regular ones; a folder that is read as a whole has images of another suffix,
            broken links or folders named like images, or label maps without an image. Counted and named.
    """
    for leaf in _leaves(dataset):
        items = [leaf.get_data_info(i) for i in range(len(leaf))]
        for key, name in FILES.items():
            _check_present([item[key] for item in items if item.get(key)], name)
        if isinstance(leaf, BaseSegDataset) and not isinstance(leaf, FolderSegDataset) and not _listed(leaf):
            _check_folders(leaf, items)


def _leaves(dataset: Any) -> Iterator[BaseDataset]:
    for inner in (dataset.dataset,) if hasattr(dataset, 'dataset') else getattr(dataset, 'datasets', ()):
        yield from _leaves(inner)
    if isinstance(dataset, BaseDataset) and not dataset._indices:
        yield dataset


def _listed(dataset: BaseSegDataset) -> bool:
    return bool(dataset.ann_file) and not os.path.isdir(dataset.ann_file)


def _check_present(paths: list[str], name: str) -> None:
    by_folder = defaultdict(list)
    for path in paths:
        folder, _, file = path.rpartition('/')
        by_folder[folder].append(file)
    absent = []
    for folder, files in by_folder.items():
        try:
            with os.scandir(folder or '.') as entries:
                there = {entry.name for entry in entries if entry.is_file()}
        except (FileNotFoundError, NotADirectoryError):
            there = set()
        absent += [os.path.join(folder, file) for file in files if file not in there]
    if absent:
        first = Path(min(absent))
        raise DataError(
            f'{first}: {kind(first)}; {len(absent)} of {len(paths)} {name} are so{some(absent[1:])}. Complete the '
            'data set, or take what is missing off its list'
        )


def _check_folders(dataset: BaseSegDataset, items: list[dict]) -> None:
    """Find what mmseg leaves out without a word, where it takes all of a folder."""
    taken = {os.path.realpath(item['img_path']) for item in items}
    folder = Path(dataset.data_prefix['img_path'])
    left = [path for path in walk(folder, IMAGE_SUFFIXES) if os.path.realpath(path) not in taken]
    if left:
        reasons = [f'{path.name}: {kind(path) if not path.is_file() else path.suffix}' for path in left]
        raise DataError(
            f'{folder}: {len(left)} of its images would be left out, which are no files ending in '
            f'{dataset.img_suffix}{some(reasons)}. Rename or remove them'
        )
    if dataset.data_prefix.get('seg_map_path'):
        folder = Path(dataset.data_prefix['seg_map_path'])
        labels = {os.path.realpath(item['seg_map_path']) for item in items}
        alone = [p.name for p in walk(folder, [dataset.seg_map_suffix.lower()]) if os.path.realpath(p) not in labels]
        if alone:
            raise DataError(
                f'{folder}: {len(alone)} label maps have no image{some(alone)}. Add the images, or remove '
                'the label maps'
            )
