"""Dense prediction on very large plain Vision Transformers, as a plug-in for mmsegmentation.

Importing the package registers everything in mmseg's registries; in a config,
``custom_imports = dict(imports=['vit22b_dense'])`` is all it takes.
"""

import warnings

# The compiled operations of mmcv, which nothing here uses, are absent by design.
warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')

from mmengine.config.utils import MODULE2PACKAGE

# By this list mmengine's hub finds the configs of installed packages: `vit22b_dense::ade20k/linear.py`.
MODULE2PACKAGE.setdefault('vit22b_dense', 'vit22b_dense')

from . import datasets, engine, evaluation, fewshot, models
from .datasets import KITTIDepthDataset, WaymoDepthDataset
from .engine.config import CONFIGS, find_config
from .evaluation import SparseDepthMetric
from .fewshot import FewShotSubset
from .models import DPTDepthHead, LinearDepthHead, LinearHead, TokenPyramid, ViT22B
from .version import __version__

__all__ = [
    'CONFIGS', 'DPTDepthHead', 'FewShotSubset', 'KITTIDepthDataset', 'LinearDepthHead', 'LinearHead',
    'SparseDepthMetric', 'TokenPyramid', 'ViT22B', 'WaymoDepthDataset', '__version__', 'datasets', 'engine',
    'evaluation', 'fewshot', 'find_config', 'models',
]  # fmt: skip
