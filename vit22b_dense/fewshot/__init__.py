"""How good a backbone is with 1/16 of the labels: subset, plan, cells, runs, table, curve."""

from .subset import FewShotSubset

__all__ = ['FewShotSubset']
