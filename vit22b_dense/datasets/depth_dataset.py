"""What the depth data sets share."""

from collections.abc import Sequence
from typing import ClassVar

from mmengine.dataset import BaseDataset


class DepthDataset(BaseDataset):
    """Images with depth; few-shot subsets keep or leave whole segments, which are what was recorded together.

    An item has ``img_path``, ``depth_path`` and ``segment``.

    Args:
        data_root: the folder above all others.
        data_prefix: folders of images and depth below it.
        ann_file: a list of what to take, where the data set has one.
        pipeline, test_mode, metainfo, indices, serialize_data, lazy_init, max_refetch: as in mmengine.
    """

    METAINFO: ClassVar[dict] = dict(classes=(), palette=[])  # mmseg asks for both
    few_shot_unit = 'segment'

    def __init__(
        self,
        data_root: str,
        data_prefix: dict,
        ann_file: str = '',
        pipeline: Sequence = (),
        test_mode: bool = False,
        metainfo: dict | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        lazy_init: bool = False,
        max_refetch: int = 1000,
    ) -> None:
        super().__init__(
            metainfo=metainfo,
            data_root=data_root,
            data_prefix=dict(data_prefix),
            ann_file=ann_file,
            indices=indices,
            serialize_data=serialize_data,
            pipeline=list(pipeline),
            test_mode=test_mode,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
        )
