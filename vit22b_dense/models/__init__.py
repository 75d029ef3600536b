"""The models: backbones, neck and heads. They know torch, mmcv's and mmseg's bases, and `checkpoint`."""

from .backbones.huggingface import HFBackbone
from .backbones.plain_vit import PlainViT
from .backbones.timm_vit import TIMMViT
from .backbones.vit22b import ViT22B
from .classifier import ImageClassifier
from .decoders.attention_pool import AttentionPool
from .decoders.depth import LinearDepthHead
from .decoders.dpt import DPTDepthHead
from .decoders.labels import MultiLabelHead
from .decoders.linear import LinearHead
from .decoders.token_pyramid import TokenPyramid
from .depth_estimator import DepthDataPreProcessor, SparseDepthEstimator
from .depth_tta import DepthTTAModel
from .segmentor import DenseSegmentor, DenseSegTTAModel

__all__ = [
    'AttentionPool', 'DPTDepthHead', 'DenseSegTTAModel', 'DenseSegmentor', 'DepthDataPreProcessor', 'DepthTTAModel',
    'HFBackbone', 'ImageClassifier', 'LinearDepthHead', 'LinearHead', 'MultiLabelHead', 'PlainViT',
    'SparseDepthEstimator', 'TIMMViT', 'TokenPyramid', 'ViT22B',
]  # fmt: skip
