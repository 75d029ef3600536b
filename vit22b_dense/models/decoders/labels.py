"""The head of pretraining: which classes an image shows, any number of them."""

import math

import torch
from mmengine.model import BaseModule
from mmengine.structures import BaseDataElement, LabelData
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F


@MODELS.register_module()
class MultiLabelHead(BaseModule):
    """A linear layer with a sigmoid for each class.

    It starts at zero weights and a bias at which the probabilities of an image add up to one, so that the loss of many
    classes starts small.

    Shapes: B batch, D ``in_channels``, K ``num_classes``.

    Args:
        in_channels: D.
        num_classes: K.
        init_cfg: mmengine's.

    Source: ViT-22B, arXiv 2302.05442 (sigmoid cross-entropy on multi-label targets).
    """

    def __init__(self, in_channels: int, num_classes: int, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.num_classes = num_classes
        self.linear = nn.Linear(in_channels, num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, -math.log(max(num_classes - 1, 1)))

    def forward(self, features: Tensor) -> Tensor:
        """Vectors ``(B, D)`` to logits ``(B, K)``."""
        return self.linear(features)

    def loss(self, features: Tensor, data_samples: list[BaseDataElement]) -> dict[str, Tensor]:
        """Sigmoid cross-entropy, the sum over the classes, the mean over the images.

        Args:
            features: ``(B, D)``.
            data_samples: each with ``gt_label.score`` ``(K,)``, 1 for the classes that the image shows and 0.
        """
        logits = self(features).float()
        truth = torch.stack([sample.gt_label.score for sample in data_samples]).to(logits)
        return dict(loss_label=F.binary_cross_entropy_with_logits(logits, truth, reduction='sum') / len(logits))

    def predict(self, features: Tensor, data_samples: list[BaseDataElement] | None = None) -> list[BaseDataElement]:
        """The samples with ``pred_label.score`` ``(K,)``, the probability of each class."""
        samples = data_samples or [BaseDataElement() for _ in features]
        for sample, scores in zip(samples, self(features).float().sigmoid(), strict=True):
            sample.pred_label = LabelData(score=scores)
        return samples
