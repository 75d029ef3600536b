"""The data: readers, transforms, few-shot subsets, seeding. They know neither the models nor the engine."""

from .depth_transforms import DepthRandomCrop, DepthRandomFlip, DepthResize, LoadSparseDepth, PackDepthInputs
from .few_shot import FewShotSubset
from .kitti import KITTIDepthDataset, LoadDepthPNG
from .loading import DataError, LoadImage, LoadLabels
from .seeding import SeededDataset, SeededInfiniteSampler
from .waymo.dataset import WaymoDepthDataset

__all__ = [
    'DataError',
    'DepthRandomCrop',
    'DepthRandomFlip',
    'DepthResize',
    'FewShotSubset',
    'KITTIDepthDataset',
    'LoadDepthPNG',
    'LoadImage',
    'LoadLabels',
    'LoadSparseDepth',
    'PackDepthInputs',
    'SeededDataset',
    'SeededInfiniteSampler',
    'WaymoDepthDataset',
]
