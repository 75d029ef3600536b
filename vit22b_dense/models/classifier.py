"""The model around backbone, pooling and label head: whole images."""

from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Backbone, pooling and head for the labels of images: to pretrain a backbone, or to probe a frozen one.

    The backbone's names in a checkpoint begin with ``backbone.``, so that ``--weights CHECKPOINT`` finds them.

    Args:
        backbone: returns maps.
        neck: pools them to a vector, such as `AttentionPool`.
        head: has ``loss`` and ``predict``, such as `MultiLabelHead`.
        data_preprocessor: mmengine's `ImgDataPreprocessor`.
        init_cfg: mmengine's.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck)
        self.head = MODELS.build(head)

    def forward(
        self, inputs: Tensor, data_samples: list[BaseDataElement] | None = None, mode: str = 'tensor'
    ) -> Tensor | dict[str, Tensor] | list[BaseDataElement]:
        """Images ``(B, 3, H, W)``, normalised, to what mmengine's modes ask for.

        Args:
            inputs: the images.
            data_samples: with ``gt_label`` for the mode ``'loss'``.
            mode: ``'tensor'`` for logits ``(B, K)``, ``'loss'`` for losses, ``'predict'`` for samples with
                ``pred_label``.
        """
        features = self.neck(self.backbone(inputs))
        if mode == 'loss':
            return self.head.loss(features, data_samples)
        return self.head.predict(features, data_samples) if mode == 'predict' else self.head(features)
