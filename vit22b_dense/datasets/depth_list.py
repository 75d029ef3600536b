"""Lists of images with their depth, in the format that depth papers share (BTS, arXiv 1907.10326)."""

import gzip
from pathlib import Path

from mmengine.logging import print_log

from .loading import DataError


def read_depth_list(path: str | Path) -> list[tuple[str, str]]:
    """The images that have depth, with it.

    A line holds an image, its depth map or ``None``, and the focal length in pixels, which nothing here needs. The
    log tells how many are left out for want of depth.

    Args:
        path: text, or the same with gzip (``.gz``).

    Returns:
        Paths of image and depth map, relative: some lists write them with a slash in front.

    Raises:
        DataError: no such list, not one, or nothing in it has depth.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()
        lines = content.decode().splitlines()
    except FileNotFoundError as error:
        raise DataError(f'{path}: no such list of images and depth maps') from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f'{path}: cannot be read as a list of images and depth maps ({error})') from error
    pairs, without = [], 0
    for number, line in enumerate(lines, 1):
        entries = line.split()
        if len(entries) != 3:
            raise DataError(f'{path}, line {number}: {line[:80]!r}; expected are IMAGE DEPTH FOCAL_LENGTH')
        image, depth, _ = entries
        if depth == 'None':
            without += 1
        else:
            pairs.append((image.lstrip('/'), depth.lstrip('/')))
    if not pairs:
        raise DataError(f'{path}: none of its {len(lines)} images has a depth map')
    if without:
        print_log(f'{path}: {len(lines)} images, {without} of them left out: they have no depth map', logger='current')
    return pairs
