"""The models: backbone, neck and heads. They know torch, mmseg's registry and bases, and `checkpoint`."""

from .backbone import ViT22B
from .neck import TokenPyramid
from .segmentation import LinearHead

__all__ = ['LinearHead', 'TokenPyramid', 'ViT22B']
