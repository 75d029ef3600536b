"""Images with sparse depth, as `tools/prepare_waymo.py` leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmseg.registry import DATASETS

from .depth_dataset import DepthDataset
from .listing import some
from .loading import DataError
from .waymo_index import CAMERAS, INDEX, read_index


@DATASETS.register_module()
class WaymoDepthDataset(DepthDataset):
    """A split of the prepared folder. Few-shot subsets keep or leave whole segments.

    An item tells ``img_path``, ``depth_path``, ``stored_shape`` (height and width of the image), ``img_crc32``
    and ``depth_crc32`` (checksums of both files), ``segment``, ``timestamp`` in microseconds, and ``camera``, a name
    such as ``FRONT``.

    Args:
        data_root: the folder that was prepared into.
        data_prefix: its split, ``dict(img_path='training')`` or ``'validation'``.
        cameras: names of those to take; None for all that are prepared.
        common: the other arguments of `DepthDataset`; there is no list.

    Raises:
        DataError: no prepared segment, one that is not complete, or a camera that was not prepared.
    """

    def __init__(self, data_root: str, data_prefix: dict, cameras: Sequence[str] | None = None, **common: Any) -> None:
        self.cameras = None if cameras is None else tuple(cameras)
        super().__init__(data_root, data_prefix, '', **common)

    def load_data_list(self) -> list[dict]:
        """One item a frame, in the order of segments, timestamps and cameras."""
        base = Path(self.data_prefix['img_path'])
        entries = sorted(base.glob('[!.]*'))
        if broken := [path.name for path in entries if path.is_symlink() and not path.exists()]:
            raise DataError(f'{base}: {len(broken)} segments are broken links{some(broken)}; mend or remove them')
        folders = [path for path in entries if path.is_dir()]
        if not folders:
            raise DataError(f'{base}: no prepared segments; make them with tools/prepare_waymo.py')
        items, seen = [], set()
        for folder in folders:
            try:
                index = read_index(folder)
            except (ValueError, OSError) as error:
                named = '' if str(folder) in str(error) else f'{folder / INDEX}: '
                raise DataError(f'{named}{error}; prepare the segment again') from error
            if index is None:
                raise DataError(
                    f'{folder}: not complete, {INDEX} is missing; prepare the segment again, or delete its folder'
                )
            try:
                found = [_item(base, index['segment'], frame) for frame in index['frames']]
            except (KeyError, TypeError, AttributeError) as error:
                raise DataError(f'{folder / INDEX}: damaged ({error!r}); prepare the segment again') from error
            seen |= {item['camera'] for item in found}
            items += [item for item in found if self.cameras is None or item['camera'] in self.cameras]
        missing = set(self.cameras or ()) - seen
        if missing:
            raise DataError(
                f'{base}: no frame of camera {", ".join(sorted(missing))}; prepared are {", ".join(sorted(seen))}: '
                'see --cameras of tools/prepare_waymo.py'
            )
        return items


def _item(base: Path, segment: str, frame: dict[str, Any]) -> dict[str, Any]:
    if CAMERAS[frame['camera_name']] != frame['camera']:
        raise TypeError(f'camera {frame["camera"]} is called {frame["camera_name"]}')
    return dict(
        img_path=str(base / frame['image']),
        depth_path=str(base / frame['depth']),
        stored_shape=(frame['height'], frame['width']),
        img_crc32=frame.get('image_crc32'),
        depth_crc32=frame.get('depth_crc32'),
        segment=segment,
        timestamp=frame['timestamp'],
        camera=frame['camera_name'],
    )
