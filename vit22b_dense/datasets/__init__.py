"""The data: readers, transforms, seeding. They know neither the models nor the engine."""

from .cityscapes import CityscapesByCity
from .depth_png import LoadDepthPNG
from .depth_transforms import DepthRandomCrop, DepthRandomFlip, DepthResize, LoadSparseDepth, PackDepthInputs
from .folder import FolderSegDataset
from .kitti import KITTIDepthDataset
from .labelled import LabelledImages, PackLabelInputs
from .loading import DataError, LoadImage, LoadLabels
from .nyu import NYUDepthDataset
from .seeding import SeededDataset, SeededInfiniteSampler
from .waymo import WaymoDepthDataset

__all__ = [
    'CityscapesByCity', 'DataError', 'DepthRandomCrop', 'DepthRandomFlip', 'DepthResize', 'FolderSegDataset',
    'KITTIDepthDataset', 'LabelledImages', 'LoadDepthPNG', 'LoadImage', 'LoadLabels', 'LoadSparseDepth',
    'NYUDepthDataset', 'PackDepthInputs', 'PackLabelInputs', 'SeededDataset', 'SeededInfiniteSampler',
    'WaymoDepthDataset',
]  # fmt: skip
