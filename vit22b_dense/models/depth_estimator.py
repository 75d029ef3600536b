"""The model around backbone and depth head: training, and the test modes whole and slide, each also flipped."""

import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from .decoders.depth import upsample
from .windows import grid_of, mean_map

MODES = ('whole', 'slide', 'whole_flip', 'slide_flip')


@MODELS.register_module()
class DepthDataPreProcessor(SegDataPreProcessor):
    """mmseg's `SegDataPreProcessor` that pads depth with 0, none.

    mmseg pads it with the segmentation's 255, which are metres here.

    Args:
        mean, std: of the pixel values.
        size: training images smaller than this (height, width) are padded to it.
        size_divisor: or to a multiple of this.
        pad_val: of the image, after normalisation.
        bgr_to_rgb, rgb_to_bgr: channel order.
        test_cfg: ``size`` or ``size_divisor`` in testing.
    """

    def __init__(
        self,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        size: tuple[int, int] | None = None,
        size_divisor: int | None = None,
        pad_val: float = 0,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        test_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            mean, std, size, size_divisor, pad_val, 0, bgr_to_rgb=bgr_to_rgb, rgb_to_bgr=rgb_to_bgr, test_cfg=test_cfg
        )


@MODELS.register_module()
class SparseDepthEstimator(EncoderDecoder):
    """Backbone, neck (optional) and depth head.

    mmseg's ``DepthEstimator`` overwrites the result of 'slide' with that of whole images, hence this one.

    Args:
        backbone, decode_head, neck, train_cfg, data_preprocessor, init_cfg: as in mmseg.
        test_cfg: ``mode``: 'whole'; 'slide' with ``crop_size`` and ``stride`` (height, width), whose overlaps are
            averaged in metres; or 'whole_flip', 'slide_flip': the mean with the mirrored input's depth.
        pretrained: None. mmseg's ``init_model`` sets it; weights are the backbone's ``init_cfg``.

    Raises:
        ValueError: an unknown mode, 'slide' without crop size and stride, or ``pretrained``.
    """

    def __init__(
        self,
        backbone: dict,
        decode_head: dict,
        neck: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
        pretrained: None = None,
    ) -> None:
        if pretrained is not None:
            raise ValueError(
                f'pretrained={pretrained!r}: name the weights as '
                f"backbone.init_cfg=dict(type='Pretrained', checkpoint={pretrained!r})"
            )
        test_cfg = dict(mode='whole') if test_cfg is None else test_cfg
        mode = test_cfg.get('mode', 'whole')
        if mode not in MODES:
            raise ValueError(f'test_cfg.mode={mode!r}: choose one of {", ".join(MODES)}')
        if mode.startswith('slide') and not {'crop_size', 'stride'} <= set(test_cfg):
            raise ValueError(f'test_cfg.mode={mode!r} needs crop_size and stride, (height, width) in pixels')
        super().__init__(
            backbone=backbone,
            decode_head=decode_head,
            neck=neck,
            train_cfg=train_cfg,
            test_cfg=ConfigDict(test_cfg),
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.mode = mode

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Images ``(B, 3, H, W)`` to depth in metres ``(B, 1, H, W)`` by the test mode."""

        def decode(images: Tensor) -> Tensor:
            meta = dict(img_shape=tuple(images.shape[2:]))
            return self.decode_head.predict(self.extract_feat(images), [meta], self.test_cfg)

        def both(images: Tensor) -> Tensor:
            return (decode(images) + decode(images.flip(3)).flip(3)) / 2

        model = both if self.mode.endswith('flip') else decode
        if self.mode.startswith('whole'):
            return model(inputs)
        grid = grid_of(tuple(inputs.shape[2:]), self.test_cfg)
        return torch.stack([mean_map(model, image, grid) for image in inputs])

    def postprocess_result(
        self, depth: Tensor, data_samples: list[SegDataSample] | None = None
    ) -> list[SegDataSample]:
        """Add ``pred_depth_map`` ``(1, H, W)``, metres: padding cut off, flipped back, at the original size.

        Args:
            depth: ``(B, 1, H, W)``.
            data_samples: of the images; None makes new ones.
        """
        results = data_samples or [SegDataSample() for _ in depth]
        for sample, one in zip(results, depth, strict=True):
            meta = sample.metainfo
            left, right, top, bottom = meta.get('img_padding_size') or meta.get('padding_size') or (0, 0, 0, 0)
            one = one[:, top : one.shape[1] - bottom, left : one.shape[2] - right]
            if meta.get('flip'):
                one = one.flip({'horizontal': (2,), 'vertical': (1,), 'diagonal': (1, 2)}[meta['flip_direction']])
            if 'ori_shape' in meta:
                one = upsample(one[None], tuple(meta['ori_shape'][:2]))[0]
            sample.pred_depth_map = PixelData(data=one)
        return results
