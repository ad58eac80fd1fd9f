"""The result of a search that goes on after a repair: the best score, and the smallest plan among equals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autotrainer.scoring.metrics import Metric, Score
from autotrainer.scoring.significance import FEW_ROWS, row_gains, significant
from autotrainer.search.candidate import Node
from autotrainer.search.seed_repeats import SeedRepeats

__all__ = ["Selection", "at_ceiling"]

_WORTH = 0.001
"""Room below a perfect score of 1 that is not worth another training: a tenth of a point."""
_CEILING_SIGMAS = 1.0
"""Standard errors by which perfect predictions must be better for anything to be gained; of rows that are right or
wrong, three must be wrong."""


class Selection:
    """Chooses among trainings. Deterministic.

    A training is eligible if it is better than the baseline by more than noise, or with other seeds, and its gain is
    not refuted. Of the eligible trainings that the best score does not exceed by more than noise, the result is one
    without an error; of these the one with the fewest edits, then with the smallest change, then with the best score.

    Only the models of that training and of the one with the best score are kept: others can't become the result later.

    Args:
        metric: Compares scores.
        root: The baseline training.
        repeats: Verdicts on gains, or None.
    """

    def __init__(self, metric: Metric, root: Node, repeats: SeedRepeats | None) -> None:
        self._metric, self._root, self._repeats = metric, root, repeats
        self._compared: dict[tuple[int, int], bool] = {}

    def choose(self, nodes: Sequence[Node]) -> list[Node]:
        """Return the training to choose, and the one with the best score if it may become the result; or nothing."""
        eligible = [node for node in nodes if self.helps(node)]
        kept = [node for node in eligible if not node.given_up]
        for pool in (eligible, kept):
            top = max(pool, key=self._value, default=None)
            equals = [node for node in kept if node is top or (top is not None and not self._better(top, node))]
            if equals:
                return [min(equals, key=self._order), max(equals, key=self._value)]
        return []

    def helps(self, node: Node) -> bool:
        """Return whether a training is better than the baseline, as far as its gain has been tested."""
        if node is self._root or node.trial.score is None:
            return False
        if self._repeats is not None and self._repeats.refuted(node.trial):
            return False
        return self._better(node, self._root) or (self._repeats is not None and self._repeats.holds(node.trial))

    def _value(self, node: Node) -> float:
        value = math.nan if node.trial.score is None else self._metric.sign * node.trial.score.value
        return -math.inf if math.isnan(value) else value

    def _order(self, node: Node) -> tuple[float, ...]:
        edits = [edit for edit in node.trial.spec.edits if edit not in self._root.trial.spec.edits]
        change = max((edit.change for edit in edits), default=0)
        return (not node.trial.clean, len(edits), change, -self._value(node))

    def _better(self, new: Node, old: Node) -> bool:
        a, b = new.trial.score, old.trial.score
        if a is None or b is None:
            return b is None and a is not None
        key = (id(a), id(b))  # the nodes hold the scores
        if key not in self._compared:
            self._compared[key] = self._metric.better(a, b)
        return self._compared[key]


def at_ceiling(metric: Metric, score: Score | None) -> bool:
    """Return whether nothing is to be gained: not even perfect predictions would be better by more than noise.

    What simple models reach is not a ceiling.

    Args:
        metric: The metric.
        score: The score of a training, or None.
    """
    if score is None or math.isnan(metric.perfect) or not math.isfinite(score.value):
        return False
    room = abs(metric.perfect - score.value)
    if room == 0 or (metric.perfect == 1 and room <= _WORTH):
        return True
    if score.rows is None or len(score.rows) <= FEW_ROWS:
        return False
    weights = np.ones(len(score.rows)) if score.weights is None else score.weights
    perfect = np.full(len(score.rows), metric.sign * metric.perfect)
    return not significant(row_gains(perfect, score.rows, weights), _CEILING_SIGMAS)
