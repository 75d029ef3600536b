"""Scores and pictures of results. They know neither the models nor the engine."""

from .depth_metric import SparseDepthMetric
from .majority import MajorityClassMetric
from .mean_depth import MeanDepthMetric
from .panels import SegPanelVisualizer

__all__ = ['MajorityClassMetric', 'MeanDepthMetric', 'SegPanelVisualizer', 'SparseDepthMetric']
