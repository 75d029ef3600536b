"""Test-time augmentation of depth."""

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample


@MODELS.register_module()
class DepthTTAModel(BaseTTAModel):
    """The counterpart of mmseg's ``SegTTAModel``: the mean of the augmented images' depth, in metres.

    A config has it as ``tta_model`` beside ``tta_pipeline``; ``test.py --tta`` puts both to use.
    """

    def merge_preds(self, data_samples_list: list[list[SegDataSample]]) -> list[SegDataSample]:
        """One sample for each image.

        Args:
            data_samples_list: of each image the samples of its augmentations, each with ``pred_depth_map``
                ``(1, H, W)`` in metres, at the original size and flipped back.

        Returns:
            Each image's first sample, with the mean in place of its ``pred_depth_map``.
        """
        merged = []
        for samples in data_samples_list:
            depth = torch.stack([sample.pred_depth_map.data for sample in samples]).mean(0)
            samples[0].pred_depth_map = PixelData(data=depth)
            merged.append(samples[0])
        return merged
