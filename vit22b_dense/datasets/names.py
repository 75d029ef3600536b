"""Samples of a data set by name, the same wherever the data lies."""

from pathlib import PurePosixPath
from typing import Any

from mmengine.dataset import BaseDataset, ConcatDataset


def sample_names(dataset: Any) -> list[str]:
    """Each sample's image path relative to its data root, with forward slashes, in the data set's order.

    Args:
        dataset: an mmengine `BaseDataset`, a `ConcatDataset` of them, or what has ``names`` of its own.

    Raises:
        TypeError: another kind of data set.
    """
    if isinstance(dataset, ConcatDataset):
        return [name for part in dataset.datasets for name in sample_names(part)]
    if hasattr(dataset, 'names'):
        return list(dataset.names)
    if not isinstance(dataset, BaseDataset):
        raise TypeError(
            f'FewShotSubset takes a BaseDataset or a ConcatDataset of them, not {type(dataset).__name__}: '
            'put other wrappers around the subset'
        )
    root = PurePosixPath(dataset.data_root or '')
    paths = (PurePosixPath(dataset.get_data_info(i)['img_path']) for i in range(len(dataset)))
    return [str(path.relative_to(root) if path.is_relative_to(root) else path) for path in paths]
