"""The linear segmentation head."""

import torch
from mmcv.cnn import build_norm_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from .upsampled import token_cross_entropy, upsampled_cross_entropy


@MODELS.register_module()
class LinearHead(BaseDecodeHead):
    """One 1x1 convolution on a feature map, then bilinear upsampling of the logits.

    Loss, upsampling and prediction are those of mmseg's ``BaseDecodeHead``; plain cross entropy is computed in a
    fraction of its memory and time.

    Args:
        in_channels: D, the width of the feature map.
        num_classes: K.
        in_index: which of the backbone's maps is read.
        dropout_ratio: channel dropout before the convolution.
        loss_decode: mmseg's loss configuration.
        ignore_index: the label value that is ignored.
        init_cfg: initialisation of the convolution.
        loss_at: ``'pixels'``, or ``'tokens'`` for the cross entropy of each token with the share of each class among
            its pixels: faster, and with plain cross entropy only.
        norm_cfg: a norm in front of the convolution, such as ``dict(type='BN')`` as in DINOv2's linear evaluation
            (arXiv 2304.07193); None for none.

    Raises:
        ValueError: an unknown ``loss_at``, or ``'tokens'`` with another loss.

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
        loss_at: str = 'pixels',
        norm_cfg: dict | None = None,
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
        self.norm = build_norm_layer(norm_cfg, in_channels)[1] if norm_cfg else nn.Identity()
        self.loss_at = loss_at
        self.plain_loss = is_plain(self.loss_decode)
        if loss_at not in ('pixels', 'tokens') or (loss_at == 'tokens' and not self.plain_loss):
            raise ValueError(f'loss_at={loss_at!r}: choose pixels, or with unweighted cross entropy tokens')

    def forward(self, inputs: tuple[Tensor, ...]) -> torch.Tensor:
        """Maps ``(B, D, h, w)`` to logits ``(B, K, h, w)`` at the resolution of the tokens."""
        x, conv = self.norm(self._transform_inputs(inputs)), self.conv_seg
        x = x if self.dropout is None else self.dropout(x)
        weight = conv.weight.flatten(1).expand(len(x), -1, -1)
        # one product: PyTorch's convolution takes up to three times as long on a CPU
        return torch.baddbmm(conv.bias[:, None], weight, x.flatten(2)).unflatten(2, x.shape[2:])

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list[SegDataSample]) -> dict:
        """mmseg's losses and, at the resolution of pixels, ``acc_seg``.

        Args:
            seg_logits: ``(B, K, h, w)``.
            batch_data_samples: with labels ``(1, H, W)``, of any integer type for plain cross entropy.
        """
        if not self.plain_loss:
            return super().loss_by_feat(seg_logits, batch_data_samples)
        labels, name = self._stack_batch_gt(batch_data_samples)[:, 0], self.loss_decode.loss_name
        known = (labels != self.ignore_index).count_nonzero()
        pixels = known if self.loss_decode.avg_non_ignore else labels.numel()
        if self.loss_at == 'tokens':
            return {
                name: self.loss_decode.loss_weight
                * token_cross_entropy(seg_logits, labels, self.ignore_index)
                / pixels
            }
        loss, correct = upsampled_cross_entropy(seg_logits, labels, self.ignore_index)
        return {
            name: self.loss_decode.loss_weight * loss / pixels,
            'acc_seg': 100 * correct / known.clamp(min=1),
        }


def is_plain(loss: object) -> bool:
    """Whether a loss is the mean cross entropy of a softmax, without weights."""
    return (
        type(loss) is CrossEntropyLoss
        and not (loss.use_sigmoid or loss.use_mask or loss.class_weight)
        and loss.reduction == 'mean'
    )
