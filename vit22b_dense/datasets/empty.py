"""Data sets without samples: named, where mmengine fails without saying which."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmseg.registry import DATASETS

from .loading import DataError


@contextmanager
def empty_named(dataset: Any) -> Iterator[None]:
    """Name a data set that turns out to be empty while it is built or filled.

    Args:
        dataset: it, or its config; of a wrapper, all that it wraps are named.

    Raises:
        DataError: see `no_samples`.
    """
    try:
        yield
    except ValueError as error:
        if str(error) != 'need at least one array to concatenate':  # numpy, where mmengine puts no samples together
            raise
        raise no_samples(dataset) from error


def no_samples(dataset: Any) -> DataError:
    """The error for an empty data set: where it has looked, and for which files."""
    return DataError(
        f'{"; ".join(_looked_for(dataset))}. Name the right folder with --data-root; images with other names need '
        'img_suffix in the config, or FolderSegDataset'
    )


def _looked_for(dataset: Any) -> Iterator[str]:
    known = dataset if isinstance(dataset, dict) else vars(dataset)
    inner = [known['dataset']] if 'dataset' in known else known.get('datasets', [])
    for part in inner:
        yield from _looked_for(part)
    if not inner:
        name = known.get('type', type(dataset).__name__)
        root = known.get('data_root') if isinstance(dataset, dict) else None  # of one that is built, paths have it
        where = known.get('ann_file') or (known.get('data_prefix') or {}).get('img_path') or ''
        place = f'{Path(root or "", where)}: ' if root or where else ''
        kind = DATASETS.get(name) if isinstance(name, str) else name
        default = inspect.signature(kind).parameters.get('img_suffix') if kind else None
        suffix = known.get('img_suffix') or (default.default if default else None)
        ending = f', whose names end with {suffix}' if isinstance(suffix, str) else ''
        yield f'{place}{name} finds no images there{ending}'
