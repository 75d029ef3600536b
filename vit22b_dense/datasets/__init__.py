"""The data: readers, transforms, seeding. They know neither the models nor the engine."""

from .depth_transforms import DepthRandomCrop, DepthRandomFlip, DepthResize, LoadSparseDepth, PackDepthInputs
from .kitti import KITTIDepthDataset, LoadDepthPNG
from .loading import DataError, LoadImage, LoadLabels
from .seeding import SeededDataset, SeededInfiniteSampler
from .waymo import WaymoDepthDataset

__all__ = [
    'DataError', 'DepthRandomCrop', 'DepthRandomFlip', 'DepthResize', 'KITTIDepthDataset', 'LoadDepthPNG',
    'LoadImage', 'LoadLabels', 'LoadSparseDepth', 'PackDepthInputs', 'SeededDataset', 'SeededInfiniteSampler',
    'WaymoDepthDataset',
]  # fmt: skip
