"""Scores and pictures of results. They know neither the models nor the engine."""

from .majority import MajorityClassMetric
from .panels import SegPanelVisualizer

__all__ = ['MajorityClassMetric', 'SegPanelVisualizer']
