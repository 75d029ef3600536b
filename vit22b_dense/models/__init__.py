"""The models: backbones, neck and heads. They know torch, mmcv's and mmseg's bases, and `checkpoint`."""

from .backbones.huggingface import HFBackbone
from .backbones.plain_vit import PlainViT
from .backbones.timm_vit import TIMMViT
from .backbones.vit22b import ViT22B
from .decoders.depth import LinearDepthHead
from .decoders.dpt import DPTDepthHead
from .decoders.linear import LinearHead
from .decoders.token_pyramid import TokenPyramid
from .depth_estimator import DepthDataPreProcessor, SparseDepthEstimator

__all__ = [
    'DPTDepthHead', 'DepthDataPreProcessor', 'HFBackbone', 'LinearDepthHead', 'LinearHead', 'PlainViT',
    'SparseDepthEstimator', 'TIMMViT', 'TokenPyramid', 'ViT22B',
]  # fmt: skip
