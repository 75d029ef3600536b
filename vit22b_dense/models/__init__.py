"""The models: backbone, neck and heads. They know torch, mmseg's registry and bases, and `checkpoint`."""

from .backbone import ViT22B
from .depth import LinearDepthHead
from .depth_estimator import DepthDataPreProcessor, SparseDepthEstimator
from .dpt import DPTDepthHead
from .neck import TokenPyramid
from .segmentation import LinearHead

__all__ = [
    'DPTDepthHead',
    'DepthDataPreProcessor',
    'LinearDepthHead',
    'LinearHead',
    'SparseDepthEstimator',
    'TokenPyramid',
    'ViT22B',
]
