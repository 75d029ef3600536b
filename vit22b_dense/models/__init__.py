"""The models: backbones, neck and heads. They know torch, mmcv's and mmseg's bases, and `checkpoint`."""

from .backbone import ViT22B
from .depth import LinearDepthHead
from .depth_estimator import DepthDataPreProcessor, SparseDepthEstimator
from .dpt import DPTDepthHead
from .huggingface import HFBackbone
from .neck import TokenPyramid
from .plain_vit import PlainViT
from .segmentation import LinearHead
from .timm_vit import TIMMViT

__all__ = [
    'DPTDepthHead',
    'DepthDataPreProcessor',
    'HFBackbone',
    'LinearDepthHead',
    'LinearHead',
    'PlainViT',
    'SparseDepthEstimator',
    'TIMMViT',
    'TokenPyramid',
    'ViT22B',
]
