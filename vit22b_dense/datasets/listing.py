"""Files below a folder, by what they are: names that are there, and names that only look like files."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from .loading import DataError

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
SHOWN = 5  # names in a message


def no_images(folder: Path) -> DataError:
    """The error for a folder without images; names what was looked for."""
    return DataError(f'{folder}: no images in this folder or below it ({", ".join(IMAGE_SUFFIXES)}, any case)')


def walk(folder: Path, suffixes: Iterable[str]) -> Iterator[Path]:
    """What has one of some suffixes, in any case, below a folder, links followed: files and whatever else.

    Names that begin with a dot are left out.

    Raises:
        DataError: no such folder; a folder is reached twice by links.
        OSError: a folder below cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f'{folder}: no such folder')
    suffixes, seen = tuple(suffixes), set()
    for place, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            raise DataError(f'{place}: leads to {real}, which has been read already; remove the link')
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        for name in (*folders, *files):
            if name.lower().endswith(suffixes) and not name.startswith('.'):
                yield Path(place, name)


def _raise(error: OSError) -> None:
    raise error


def kind(path: Path) -> str:
    """What is there in place of a regular file."""
    if path.is_dir():
        return 'a folder'
    return 'a broken link' if path.is_symlink() else 'no regular file' if path.exists() else 'missing'


def some(names: Iterable[str]) -> str:
    """The first of some names in brackets, for a message; nothing where there are none."""
    names = sorted(names)
    return f' ({", ".join(names[:SHOWN])}{", …" if len(names) > SHOWN else ""})' if names else ''
