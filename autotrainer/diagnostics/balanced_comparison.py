"""Networks compared with baseline models that weight the classes, for `balanced_accuracy`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.spec import Trained
from autotrainer.diagnostics.baseline_models import CERTAIN, operations
from autotrainer.diagnostics.baseline_problem import make_problem
from autotrainer.records.data import ArrayData, finite_rows
from autotrainer.records.signals import Floats
from autotrainer.records.task import TargetSummary, TaskContext
from autotrainer.scoring.metric_selection import class_weights
from autotrainer.scoring.metrics import Score
from autotrainer.scoring.scorer import Scorer
from autotrainer.training.base_run import BaseRun

__all__ = ["BalancedComparison"]

_SIZES = (1000, 700, 500, 350, 300, 250, 180, 100)
"""Rows that baseline models are fitted on: as many as the work allows."""
_SCORED = 1000
"""Maximum validation rows that they are scored on."""
_FOLDS = 4
"""Parts of training rows of which each is predicted from the others."""


@dataclass(frozen=True)
class BalancedComparison:
    """The baseline model of the highest balanced accuracy on some rows. Can be sent to another process.

    Attributes:
        rows: The rows, of all classes about as many as there are.
        places: Their places in the validation data, or in the training data.
        right: Whether the model is right in each row.
        weights: Weight of each row with which all classes count alike; their sum is 1.
        work: Multiply-adds that fitting and scoring took.
        crossed: The same on training rows, which the baseline models predict by cross-validation; None on these
            themselves. A network that recognizes fewer rare rows among those that it was
            trained on than these models among rows that they have not seen certainly misses them.
    """

    rows: ArrayData
    places: NDArray[np.int64]
    right: Floats
    weights: Floats
    work: int
    crossed: BalancedComparison | None = None

    @classmethod
    def fit(
        cls,
        train: ArrayData,
        validation: ArrayData,
        targets: TargetSummary,
        context: TaskContext,
        limit: float,
        seed: int,
    ) -> Self | None:
        """Fit baseline models on rows of which rare classes are a larger share, and score them on such rows.

        Args:
            train: Training rows.
            validation: Validation rows.
            targets: Summary of all training targets.
            context: The training.
            limit: Multiply-adds that it may take.
            seed: Seed of the choice of rows.

        Returns:
            The comparison; None if rows have no single class, or the data do not suit baseline models.
        """
        held_out = _spread(validation, targets, _SCORED, seed)
        if held_out is None:
            return None
        scored = validation.take(held_out)
        for size in _SIZES:
            places = _spread(train, targets, size, seed)
            if places is None:
                return None
            rows = train.take(places)
            problem = make_problem(rows, scored, targets, context)
            if problem is None or not problem.classes or len(problem.held_inputs) != scored.rows:
                return None
            width, part = (problem.inputs.shape[1], problem.targets.shape[1]), rows.rows // _FOLDS
            work = operations(rows.rows, scored.rows, *width)
            crossing = _FOLDS * operations(rows.rows - part, part, *width)
            if work + crossing > limit:
                continue
            comparison = cls._best(scored, held_out, problem.balanced_row_scores(), targets, work + crossing)
            crossed = cls._best(rows, places, _cross_validated(rows, targets, context), targets, crossing)
            return None if comparison is None else replace(comparison, crossed=crossed)
        return None

    @classmethod
    def _best(
        cls,
        rows: ArrayData,
        places: NDArray[np.int64],
        scores: Mapping[str, Floats],
        targets: TargetSummary,
        work: int,
    ) -> Self | None:
        weights = class_weights(rows.targets, targets)
        if weights is None or not scores:
            return None
        weights = weights / weights.sum()
        return cls(rows, places, max(scores.values(), key=lambda right: float((right * weights).sum())), weights, work)

    def compare(self, trained: Trained, run: BaseRun, scorer: Scorer) -> dict[str, float]:
        """Return by how much the balanced accuracy of the best baseline model is higher than that of a network.

        Args:
            trained: The network.
            run: The core's side of its training; holds its last evaluation, or accounts for another one.
            scorer: Scores evaluations.

        Returns:
            ``balanced_score``, ``simple_balanced_score``, ``balanced_gap`` and ``balanced_gap_low`` of `FACTS`, and
            ``balanced_crossed`` if they are those of `crossed`, which is asked if the validation rows show no certain
            gap; nothing if the loss weights classes, perhaps by what errors cost, or the budget does not allow an
            evaluation.
        """
        if scorer.weighted:
            return {}
        last = run.evaluation  # of all validation rows
        facts: dict[str, float] = {}
        if last is not None and len(last.outputs) == len(last.targets) > self.places.max():
            facts = self._compare(scorer.score_rows(last), self.places)
        elif run.spend(self.rows.rows, training=False):
            facts = self._compare(scorer.score_rows(trained.evaluate(self.rows)))
        unsure = facts.get("balanced_gap", 0.0) > 0 >= facts.get("balanced_gap_low", 1.0)
        if self.crossed is None or not unsure or not run.spend(self.crossed.rows.rows, training=False):
            return facts
        crossed = self.crossed._compare(scorer.score_rows(trained.evaluate(self.crossed.rows)))
        return crossed | {"balanced_crossed": 1.0} if crossed.get("balanced_gap_low", 0.0) > 0 else facts

    def _compare(self, score: Score | None, places: NDArray[np.int64] | None = None) -> dict[str, float]:
        """Return the facts, by the scores of rows, or of those of them in the places."""
        rows = None if score is None else score.rows
        if rows is not None and places is not None:
            rows = rows[places] if len(rows) > places.max() else None
        if rows is None or len(rows) != len(self.right):
            return {}
        gains = (self.right - rows) * self.weights
        # As in a test with continuity correction (Edwards 1948): the heaviest row proves nothing
        noise = CERTAIN * math.sqrt(float((gains**2).sum())) + float(np.abs(gains).max(initial=0))
        own, best = (float((part * self.weights).sum()) for part in (rows, self.right))
        facts = {"balanced_score": own, "simple_balanced_score": best}
        return facts | {"balanced_gap": best - own, "balanced_gap_low": float(gains.sum()) - noise}


def _cross_validated(rows: ArrayData, targets: TargetSummary, context: TaskContext) -> dict[str, Floats]:
    """Return whether each baseline model is right in each of these rows, which are in random order."""
    scores: dict[str, list[Floats]] = {}
    for part in np.array_split(np.arange(rows.rows), _FOLDS):
        others = np.setdiff1d(np.arange(rows.rows), part)
        problem = make_problem(rows.take(others), rows.take(part), targets, context)
        if problem is None or len(problem.held_inputs) != len(part):
            return {}
        for name, right in problem.balanced_row_scores().items():
            scores.setdefault(name, []).append(right)
    return {name: np.concatenate(parts) for name, parts in scores.items()}


def _spread(data: ArrayData, targets: TargetSummary, size: int, seed: int) -> NDArray[np.int64] | None:
    """Return the places of random rows, of each class as many as of any other if there are; None without classes."""
    finite = finite_rows(data)
    weights = class_weights(data.targets[finite], targets)
    if weights is None or not len(weights) or not weights.all():
        return None
    random = np.random.default_rng(seed)
    chosen: list[NDArray[np.int64]] = []
    classes, index = np.unique(_labels(data.targets[finite], targets), return_inverse=True)
    groups = sorted((np.flatnonzero(index.reshape(-1) == place) for place in range(len(classes))), key=len)
    for place, rows in enumerate(groups):  # the rarest first: what they lack is left to the others
        share = (size - sum(map(len, chosen))) // (len(groups) - place)
        chosen.append(random.permutation(rows)[: max(1, share)])
    places: NDArray[np.int64] = finite[random.permutation(np.concatenate(chosen))]
    return places


def _labels(targets: NDArray[np.generic], summary: TargetSummary) -> NDArray[np.generic]:
    return targets.argmax(axis=1) if summary.one_hot and targets.ndim == 2 else targets.reshape(-1)
