"""A prepared segment on disk, and its index.

Layout, under OUT/SPLIT (where a hidden name is a lock, or a folder not yet in its place):

    SEGMENT/TIMESTAMP_CAMERA.jpg   the released JPEG bytes, unchanged
    SEGMENT/TIMESTAMP_CAMERA.npz   `x`, `y` uint16 pixel columns and rows; `depth` float32 z-depth, metres;
                                   each (N,), every pixel once, its nearest return; N may be 0
    SEGMENT/index.json             `version`, `segment`, `settings`, `dropped_returns`, `frames` and `skipped`

Each of `frames` has `timestamp` (microseconds), `camera` (1-5), `camera_name`, `width`, `height`, `points`,
the paths `image` and `depth` relative to OUT/SPLIT, and the CRC-32 of both files, `image_crc32` and
`depth_crc32`. A frame no LiDAR point reaches is written, with empty arrays and `points` 0: an evaluation has to
know of it. Each of `skipped` has `timestamp`, `camera`, `reason` and `detail`. `dropped_returns` counts those
`behind` a camera, `outside` its image, and `invalid`: without a finite distance of at most 500 m.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

INDEX = 'index.json'
CAMERAS = {'FRONT': 1, 'FRONT_LEFT': 2, 'FRONT_RIGHT': 3, 'SIDE_LEFT': 4, 'SIDE_RIGHT': 5}
VERSION = 1


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index of a prepared segment's folder; None where the segment is not complete.

    Raises:
        ValueError: the file is no index of this version, or the folder's name is hidden: left over by a run
            that was cut off.
        OSError: it cannot be read.
    """
    if folder.name.startswith('.'):
        raise ValueError(f'{folder}: being prepared, or left over by a run that was cut off')
    path = folder / INDEX
    if path.exists() and not path.is_file():
        raise ValueError(f'{path}: no regular file')
    try:
        index = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        return None
    if not isinstance(index, dict) or index.get('version') != VERSION:
        raise ValueError(f'{path}: not an index of version {VERSION}')
    return index
