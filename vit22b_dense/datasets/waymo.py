"""Images with sparse depth, as `tools/prepare_waymo.py` leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mmengine.dataset import BaseDataset
from mmseg.registry import DATASETS

from .loading import DataError
from .waymo_index import INDEX, read_index


@DATASETS.register_module()
class WaymoDepthDataset(BaseDataset):
    """A split of the prepared folder. Few-shot subsets keep or leave whole segments.

    An item tells ``img_path``, ``depth_path``, ``segment``, ``timestamp`` in microseconds, and ``camera``, a name such
    as ``FRONT``.

    Args:
        data_root: the folder that was prepared into.
        data_prefix: its split, ``dict(img_path='training')`` or ``'validation'``.
        cameras: names of those to take; None for all that are prepared.
        pipeline, test_mode, metainfo, indices, serialize_data, lazy_init, max_refetch: as in mmengine.

    Raises:
        DataError: no prepared segment, one that is not complete, or a camera that was not prepared.
    """

    METAINFO: ClassVar[dict] = dict(classes=(), palette=[])  # mmseg asks for both
    few_shot_unit = 'segment'

    def __init__(
        self,
        data_root: str,
        data_prefix: dict,
        cameras: Sequence[str] | None = None,
        pipeline: Sequence = (),
        test_mode: bool = False,
        metainfo: dict | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        lazy_init: bool = False,
        max_refetch: int = 1000,
    ) -> None:
        self.cameras = None if cameras is None else tuple(cameras)
        super().__init__(
            metainfo=metainfo,
            data_root=data_root,
            data_prefix=dict(data_prefix),
            indices=indices,
            serialize_data=serialize_data,
            pipeline=list(pipeline),
            test_mode=test_mode,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
        )

    def load_data_list(self) -> list[dict]:
        """One item a frame, in the order of segments, timestamps and cameras."""
        base = Path(self.data_prefix['img_path'])
        folders = sorted(path for path in base.glob('*') if path.is_dir())
        if not folders:
            raise DataError(f'{base}: no prepared segments; make them with tools/prepare_waymo.py')
        items, seen = [], set()
        for folder in folders:
            try:
                index = read_index(folder)
            except ValueError as error:
                raise DataError(f'{error}; prepare the segment again') from error
            if index is None:
                raise DataError(
                    f'{folder}: not complete, {INDEX} is missing; prepare the segment again, or delete its folder'
                )
            for frame in index['frames']:
                seen.add(frame['camera_name'])
                if self.cameras is None or frame['camera_name'] in self.cameras:
                    items.append(
                        dict(
                            img_path=str(base / frame['image']),
                            depth_path=str(base / frame['depth']),
                            segment=index['segment'],
                            timestamp=frame['timestamp'],
                            camera=frame['camera_name'],
                        )
                    )
        missing = set(self.cameras or ()) - seen
        if missing:
            raise DataError(
                f'{base}: no frame of camera {", ".join(sorted(missing))}; prepared are {", ".join(sorted(seen))}: '
                'see --cameras of tools/prepare_waymo.py'
            )
        return items
