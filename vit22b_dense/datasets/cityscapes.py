"""Cityscapes whose images know their city."""

from pathlib import Path

from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS


@DATASETS.register_module()
class CityscapesByCity(CityscapesDataset):
    """mmseg's `CityscapesDataset`; few-shot subsets keep or leave whole cities. An item tells its ``city``, too.

    ::

        DATA_ROOT/leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png
        DATA_ROOT/gtFine/{train,val}/CITY/NAME_gtFine_labelTrainIds.png
    """

    few_shot_unit = 'city'

    def load_data_list(self) -> list[dict]:
        """One item an image, in the order of their paths."""
        return [dict(item, city=Path(item['img_path']).parent.name) for item in super().load_data_list()]
