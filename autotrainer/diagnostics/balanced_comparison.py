"""Networks compared with baseline models that weight the classes, where a class is rare."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.spec import Trained
from autotrainer.diagnostics.baseline_models import operations
from autotrainer.diagnostics.baseline_problem import make_problem
from autotrainer.records.data import ArrayData, finite_rows
from autotrainer.records.signals import Floats
from autotrainer.records.task import TargetSummary, TaskContext
from autotrainer.scoring.metric_selection import class_weights
from autotrainer.scoring.scorer import Scorer
from autotrainer.training.base_run import BaseRun

__all__ = ["BalancedComparison"]

_SIZES = (1000, 500, 250, 100)
"""Rows that baseline models are fitted on, and at most as many that they are scored on: as many as the work allows."""
_CERTAIN = 2.5
"""Standard errors by which a lead is more than the chance of the best of four models (Bonferroni)."""


@dataclass(frozen=True)
class BalancedComparison:
    """The baseline model of the highest balanced accuracy. Can be sent to another process.

    Attributes:
        held_out: Validation rows, of all classes about as many as there are.
        places: Their places in the validation data.
        right: Whether the model is right in each row.
        weights: Weight of each row with which all classes count alike; their sum is 1.
        work: Multiply-adds that fitting and scoring took.
    """

    held_out: ArrayData
    places: NDArray[np.int64]
    right: Floats
    weights: Floats
    work: int

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
        width = max(1, np.asarray(train.take(slice(0, 1)).targets).size)
        for size in _SIZES:
            places = [_spread(data, targets, size, seed) for data in (train, validation)]
            if places[0] is None or places[1] is None:
                return None
            parts = [data.take(rows) for data, rows in ((train, places[0]), (validation, places[1]))]
            problem = make_problem(parts[0], parts[1], targets, context)
            if problem is None or not problem.classes or len(problem.held_inputs) != parts[1].rows:
                return None
            work = operations(len(problem.inputs), parts[1].rows, problem.inputs.shape[1], max(width, targets.classes))
            weights = class_weights(parts[1].targets, targets)
            if work > limit or weights is None:
                continue
            weights = weights / weights.sum()
            right = max(problem.balanced_row_scores().values(), key=lambda rows: float((rows * weights).sum()))
            return cls(parts[1], places[1], right, weights, work)
        return None

    def compare(self, trained: Trained, run: BaseRun, scorer: Scorer) -> dict[str, float]:
        """Return by how much the balanced accuracy of the best baseline model is higher than that of a network.

        Args:
            trained: The network.
            run: The core's side of its training; holds its last evaluation, or accounts for another one.
            scorer: Scores evaluations.

        Returns:
            ``balanced_score``, ``simple_balanced_score``, ``balanced_gap`` and ``balanced_gap_low`` of `FACTS`; nothing
            if the loss weights classes, perhaps by what errors cost, or the budget does not allow an evaluation.
        """
        if scorer.weighted:
            return {}
        last = run.evaluation  # of all validation rows
        if last is not None and len(last.outputs) == len(last.targets) > self.places.max():
            score = scorer.score_rows(last)
            rows = None if score is None or score.rows is None else score.rows
            rows = rows[self.places] if rows is not None and len(rows) == len(last.outputs) else None
        else:
            spent = run.spend(self.held_out.rows, training=False)
            score = scorer.score_rows(trained.evaluate(self.held_out)) if spent else None
            rows = None if score is None else score.rows
        if rows is None or len(rows) != len(self.right):
            return {}
        gains = (self.right - rows) * self.weights
        # As in a test with continuity correction (Edwards 1948): the heaviest row proves nothing
        noise = _CERTAIN * math.sqrt(float((gains**2).sum())) + float(np.abs(gains).max(initial=0))
        own, best = (float((part * self.weights).sum()) for part in (rows, self.right))
        facts = {"balanced_score": own, "simple_balanced_score": best}
        return facts | {"balanced_gap": best - own, "balanced_gap_low": float(gains.sum()) - noise}


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
