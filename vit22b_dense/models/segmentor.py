"""The model around backbone and segmentation head: mmseg's, without logits at the size of the picture."""

from collections.abc import Iterable
from dataclasses import replace

from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder, SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from .windows import Window, labels_of, split


@MODELS.register_module()
class DenseSegmentor(EncoderDecoder):
    """mmseg's `EncoderDecoder`, with predictions of the same labels in a fraction of the memory.

    Its arguments are mmseg's. The results hold ``pred_sem_seg``; ``seg_logits``, which take 7 GB for 12 megapixels of
    150 classes, only with ``test_cfg=dict(..., logits=True)`` or in test-time augmentation.
    """

    def predict(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
        """Labels of images.

        Args:
            inputs: ``(B, 3, H, W)``, normalised.
            data_samples: with ``ori_shape``; None for the size of the input.

        Returns:
            The samples with ``pred_sem_seg`` ``(1, H0, W0)`` int64, H0 and W0 the original size.
        """
        if data_samples is None or self.num_classes == 1 or self.test_cfg.get('logits'):
            return super().predict(inputs, data_samples)
        for image, sample in zip(inputs, data_samples, strict=True):
            meta = sample.metainfo
            if meta.get('flip') or any(meta.get('img_padding_size') or meta.get('padding_size') or ()):
                return super().predict(inputs, data_samples)
            size = tuple(image.shape[1:])
            windows = [self._decoded(image, window) for window in self._windows(size)]
            labels = labels_of(windows, size, tuple(meta['ori_shape'][:2]))
            sample.pred_sem_seg = PixelData(data=labels[None])
        return data_samples

    def _windows(self, size: tuple[int, int]) -> Iterable[Window]:
        if self.test_cfg.get('mode', 'whole') == 'slide':
            return split(size, tuple(self.test_cfg.crop_size), tuple(self.test_cfg.stride))
        return [Window(0, 0, *size)]

    def _decoded(self, image: Tensor, window: Window) -> Window:
        part = image[:, window.top : window.top + window.height, window.left : window.left + window.width]
        return replace(window, logits=self._forward(part[None])[0].float())


@MODELS.register_module()
class DenseSegTTAModel(SegTTAModel):
    """mmseg's `SegTTAModel`, which averages the logits of the augmented images, for `DenseSegmentor`.

    Args:
        module: the model or its config.
    """

    def __init__(self, module: dict | nn.Module) -> None:
        super().__init__(module)
        self.module.test_cfg.logits = True
