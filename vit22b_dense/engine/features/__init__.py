"""Features of a frozen backbone, computed once: made by `maker`, held by `store`, trained from by `runner`."""

from .cached import CachedBackbone, CachedTesting, CachedTraining
from .maker import FeatureMaker
from .runner import CachedRunner
from .store import FeatureError, FeatureStore

__all__ = [
    'CachedBackbone', 'CachedRunner', 'CachedTesting', 'CachedTraining', 'FeatureError', 'FeatureMaker',
    'FeatureStore',
]  # fmt: skip
