"""Scores and pictures of results. They know neither the models nor the engine."""

from .depth_metric import SparseDepthMetric
from .depth_panels import DepthPanelVisualizer
from .grid import GridDepthMetric, GridIoUMetric
from .image_scores import ImageDepthMetric, ImageIoUMetric
from .label_counts import CountedIoUMetric
from .label_metric import MultiLabelMetric
from .mean_depth import MeanDepthMetric
from .panels import SegPanelVisualizer

__all__ = [
    'CountedIoUMetric', 'DepthPanelVisualizer', 'GridDepthMetric', 'GridIoUMetric', 'ImageDepthMetric',
    'ImageIoUMetric', 'MeanDepthMetric', 'MultiLabelMetric', 'SegPanelVisualizer', 'SparseDepthMetric',
]  # fmt: skip
