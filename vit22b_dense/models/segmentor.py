"""The model around backbone and segmentation head: mmseg's, without logits at the size of the picture."""

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder, SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ..strips import Mosaic, Side, labels_of
from .windows import grid_of, on_windows


@MODELS.register_module()
class DenseSegmentor(EncoderDecoder):
    """mmseg's `EncoderDecoder`, with predictions of the same labels in a fraction of the memory and time.

    Its arguments are mmseg's. The results hold ``pred_sem_seg``; ``seg_logits``, which take 7 GB for 12 megapixels of
    150 classes, only with ``test_cfg=dict(..., logits=True)``.
    """

    @property
    def gives_labels_alone(self) -> bool:
        """Whether labels are made without logits at the size of the picture."""
        return self.out_channels > 1 and not self.test_cfg.get('logits')

    def loss(self, inputs: Tensor, data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        """mmseg's losses, also of labels that are stored in bytes.

        Args:
            inputs: ``(B, 3, H, W)``, normalised.
            data_samples: with ``gt_sem_seg`` ``(1, H, W)`` of any integer type.
        """
        if self.with_auxiliary_head or not getattr(self.decode_head, 'plain_loss', False):
            for sample in data_samples:  # mmseg's own losses read int64
                sample.gt_sem_seg.data = sample.gt_sem_seg.data.long()
        return super().loss(inputs, data_samples)

    def predict(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
        """Labels of images.

        Args:
            inputs: ``(B, 3, H, W)``, normalised.
            data_samples: with ``ori_shape``; None for the size of the input.

        Returns:
            The samples with ``pred_sem_seg`` ``(1, H0, W0)`` int64, H0 and W0 the original size.
        """
        if data_samples is None or not self.gives_labels_alone:
            return super().predict(inputs, data_samples)
        for image, sample in zip(inputs, data_samples, strict=True):
            sample.pred_sem_seg = PixelData(data=labels_of([self.mosaic(image, sample.metainfo)])[None])
        return data_samples

    def mosaic(self, image: Tensor, meta: dict) -> Mosaic:
        """The logits of an image ``(3, H, W)`` by the test mode, to be read in strips at its original size.

        Args:
            image: normalised.
            meta: ``ori_shape``, and of padding and flip what mmseg's samples have.
        """
        tops, lefts, window = grid_of(tuple(image.shape[1:]), self.test_cfg)
        left, right, top, bottom = meta.get('img_padding_size') or meta.get('padding_size') or (0, 0, 0, 0)
        flip = meta.get('flip_direction') if meta.get('flip') else None
        sides = (
            Side(size, original, tuple(starts), length, padding, flip in (direction, 'diagonal'), self.align_corners)
            for size, original, starts, length, padding, direction in zip(
                image.shape[1:], meta['ori_shape'][:2], (tops, lefts), window,
                ((top, bottom), (left, right)), ('vertical', 'horizontal'), strict=True,
            )
        )  # fmt: skip

        def decode(row: int) -> Tensor:
            corners = [(tops[row], left) for left in lefts]
            return on_windows(self._forward, image, corners, window).float().permute(0, 2, 3, 1).contiguous()

        return Mosaic(*sides, decode)


@MODELS.register_module()
class DenseSegTTAModel(SegTTAModel):
    """mmseg's `SegTTAModel`: labels from the mean of the augmented images' probabilities, in strips.

    Args:
        module: the model or its config, a `DenseSegmentor`.
    """

    def __init__(self, module: dict | nn.Module) -> None:
        super().__init__(module)
        if not self.module.gives_labels_alone:
            self.module.test_cfg.logits = True

    @torch.no_grad()
    def test_step(self, data: dict) -> list[SegDataSample]:
        """Labels of images.

        Args:
            data: ``inputs`` and ``data_samples``, each a list over the augmentations of lists over the images.

        Returns:
            A sample for each image, with ``pred_sem_seg`` ``(1, H0, W0)`` int64.
        """
        if not self.module.gives_labels_alone:
            return super().test_step(data)
        views = []  # of each augmentation, its images and samples
        for i in range(len(data['inputs'])):
            view = self.module.data_preprocessor({key: data[key][i] for key in data}, False)
            views.append(list(zip(view['inputs'], view['data_samples'], strict=True)))
        results = []
        for views_of_one in zip(*views, strict=True):
            mosaics = [self.module.mosaic(image, sample.metainfo) for image, sample in views_of_one]
            sample = views_of_one[0][1]
            sample.pred_sem_seg = PixelData(data=labels_of(mosaics)[None])
            results.append(sample)
        return results
