"""Scores all trainings of one `fit` by one metric."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.spec import Evaluation
from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.data import ArrayData, Data
from autotrainer.records.task import MASKED, TargetSummary, TaskContext
from autotrainer.scoring.metric_selection import MetricSelection, accuracy_metric, r2_metric
from autotrainer.scoring.metrics import TRIVIAL_R2, Metric, RowMetric, Score
from autotrainer.scoring.significance import SIGMAS

__all__ = ["Scorer"]


class Scorer:
    """Scores evaluations; the first one selects the metric.

    Args:
        choice: The user's choice of metric.
        context: The original training.
        train: Training data.
        masked: Class index that the loss ignores, and so does the accuracy; None without one.
    """

    def __init__(self, choice: MetricSelection, context: TaskContext, train: Data, masked: int | None = None) -> None:
        self._choice, self._context, self._masked = choice, context, masked
        self._summary = DataSummary()
        if isinstance(train, ArrayData):
            self._summary.add_targets(self._unmasked(train.targets))
        self._metric: Metric | None = None
        self._accuracy: Metric | None = None

    @property
    def metric(self) -> Metric | None:
        """The metric; None before the first evaluation."""
        return self._metric

    @property
    def targets(self) -> TargetSummary:
        """Summary of the training targets; of the validation targets if the training data are a stream."""
        return self._summary.targets

    def score(self, evaluation: Evaluation) -> Score:
        """Score an evaluation.

        Raises:
            InputError: If the metric does not fit.
        """
        metric = self.select_metric(evaluation)
        return metric.score(self._countable(evaluation) if isinstance(metric, RowMetric) else evaluation)

    def select_metric(self, evaluation: Evaluation) -> Metric:
        """Return the metric; the first call selects it by types and shapes of outputs and targets, not by their values.

        Raises:
            InputError: If the metric does not fit.
        """
        if self._metric is None:
            countable = self._countable(evaluation)
            if not self.targets.count:
                self._summary.add_targets(countable.targets)
            self._metric = self._choice.select(self._context, self.targets, countable)
            if len(evaluation.outputs):
                self._accuracy = accuracy_metric(self._context, self.targets, countable)
        return self._metric

    def above_trivial(self, score: Score | None) -> bool:
        """Return whether a score is clearly above that of the trivial predictor: the most common class, or the mean.

        Accuracy must exceed the share of the most common class significantly (one-sided 95%), R² must exceed 0.05.
        Other metrics have no known trivial score and always pass.
        """
        if score is None or score.rows is None or self._metric is None:
            return score is not None
        if self._metric.name == "r2":
            return score.value > TRIVIAL_R2
        share = self.targets.majority
        if self._metric.name != "accuracy" or math.isnan(share):
            return True
        return score.value > share + SIGMAS * math.sqrt(share * (1 - share) / len(score.rows))

    def score_rows(self, evaluation: Evaluation) -> Score | None:
        """Score an evaluation by accuracy or R², whatever the metric; None if neither fits the task."""
        countable = self._countable(evaluation)
        if not len(countable.outputs):
            return None
        metric = accuracy_metric(self._context, self.targets, countable) or r2_metric(countable)
        try:
            return None if metric is None else metric.score(countable)
        except ValueError:  # outputs and targets have incompatible shapes
            return None

    def accuracy(self, evaluation: Evaluation, score: Score) -> float:
        """Return the accuracy for the rules, whatever the metric; NaN if the task is not a classification.

        Args:
            evaluation: The evaluation.
            score: Its score.
        """
        if self._accuracy is None:
            return math.nan
        if isinstance(self._metric, RowMetric) and self._metric.name == "accuracy":
            return score.value
        try:
            return self._accuracy.score(self._countable(evaluation)).value
        except ValueError:  # outputs and targets have incompatible shapes
            return math.nan

    def _countable(self, evaluation: Evaluation) -> Evaluation:
        """Return an evaluation with masked class indices negative and rows without finite targets removed."""
        targets = self._unmasked(evaluation.targets if evaluation.counted is None else evaluation.counted)
        outputs = evaluation.outputs
        if targets.dtype.kind == "f" and len(targets) == len(outputs):
            finite = np.isfinite(targets).reshape(len(targets), -1).all(axis=1)
            if finite.any() and not finite.all():
                targets, outputs = targets[finite], outputs[finite]
        return replace(evaluation, targets=targets, outputs=outputs)

    def _unmasked(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Return targets with the ignored class index replaced by `MASKED`."""
        if self._masked is None or self._masked < 0 or targets.dtype.kind not in "iu":
            return targets
        return np.where(targets == self._masked, MASKED, targets.astype(np.int64))
