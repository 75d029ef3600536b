"""The linear segmentation head."""

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class LinearHead(BaseDecodeHead):
    """One 1x1 convolution on a feature map, then bilinear upsampling of the logits.

    Loss, upsampling and prediction are those of mmseg's ``BaseDecodeHead``.

    Args:
        in_channels: D, the width of the feature map.
        num_classes: K.
        in_index: which of the backbone's maps is read.
        dropout_ratio: channel dropout before the convolution.
        loss_decode: mmseg's loss configuration.
        ignore_index: the label value that is ignored.
        init_cfg: initialisation of the convolution.

    Source: Segmenter, arXiv 2105.05633, section 3.2 (the linear decoder).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        in_index: int = -1,
        dropout_ratio: float = 0.0,
        loss_decode: dict | list[dict] = dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        ignore_index: int = 255,
        init_cfg: dict | list[dict] | None = dict(type='Normal', std=0.01, override=dict(name='conv_seg')),
    ) -> None:
        super().__init__(
            in_channels,
            in_channels,
            num_classes=num_classes,
            # one output per class also with two classes, where mmseg would use one sigmoid
            out_channels=num_classes,
            in_index=in_index,
            dropout_ratio=dropout_ratio,
            loss_decode=loss_decode,
            ignore_index=ignore_index,
            init_cfg=init_cfg,
        )

    def forward(self, inputs: tuple[Tensor, ...]) -> torch.Tensor:
        """Maps ``(B, D, h, w)`` to logits ``(B, K, h, w)`` at the resolution of the tokens."""
        return self.cls_seg(self._transform_inputs(inputs))
