"""How good a backbone is with 1/16 of the labels.

In the order of the work: `subset` chooses the images; `plan` makes the cells of a table, one for each backbone,
fraction and seed; `cells` knows each one's commands and its folder; `runs` runs them; `table` and `curve` show the
scores, with those in `published` beside them; `report` shows them in the HTML page.
"""

from .subset import FewShotSubset

__all__ = ['FewShotSubset']
