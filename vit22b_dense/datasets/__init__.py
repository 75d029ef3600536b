"""The data: readers, transforms, few-shot subsets, seeding. They know neither the models nor the engine."""

from .few_shot import FewShotSubset
from .loading import DataError, LoadImage, LoadLabels
from .seeding import SeededDataset, SeededInfiniteSampler

__all__ = ['DataError', 'FewShotSubset', 'LoadImage', 'LoadLabels', 'SeededDataset', 'SeededInfiniteSampler']
