"""The judge of one `fit`: one metric for all of its trainings."""

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
from autotrainer.scoring.metrics import Metric, RowMetric, Score

__all__ = ["Scorer"]

_TRIVIAL_R2 = 0.05


class Scorer:
    """Scores evaluations; decides on the metric with the first one.

    Args:
        choice: The user's choice of metric.
        context: The training as given.
        train: Training data.
        masked: Class index that the loss leaves out, or None: it does not count in the accuracy either.
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
        """Summary of the training targets, of the validation targets where the data are a stream."""
        return self._summary.targets

    def judge(self, evaluation: Evaluation) -> Score:
        """Score an evaluation.

        Raises:
            InputError: If the metric does not fit.
        """
        metric = self.decide(evaluation)
        return metric.judge(self._seen(evaluation) if isinstance(metric, RowMetric) else evaluation)

    def decide(self, evaluation: Evaluation) -> Metric:
        """Return the metric: one once and for all, by the types and shapes of a first evaluation, whatever its values.

        Raises:
            InputError: If the metric does not fit.
        """
        if self._metric is None:
            seen = self._seen(evaluation)
            if not self.targets.count:
                self._summary.add_targets(seen.targets)
            self._metric = self._choice.decide(self._context, self.targets, seen)
            if len(evaluation.outputs):
                self._accuracy = accuracy_metric(self._context, self.targets, seen)
        return self._metric

    def above_trivial(self, judged: Score | None) -> bool:
        """Say whether a score is clearly above that of the trivial predictor: the commonest class, or the mean.

        Accuracy must exceed the commonest class's share by its standard error (one-sided 95 %), R² must exceed 0.05.
        Other metrics have no known trivial level, and pass.
        """
        if judged is None or judged.rows is None or self._metric is None:
            return judged is not None
        if self._metric.name == "r2":
            return judged.value > _TRIVIAL_R2
        share = self.targets.majority
        if self._metric.name != "accuracy" or math.isnan(share):
            return True
        return judged.value > share + 1.645 * math.sqrt(share * (1 - share) / len(judged.rows))

    def rows(self, evaluation: Evaluation) -> Score | None:
        """Score an evaluation row by row by accuracy or R², whatever the metric; None where the task has neither."""
        seen = self._seen(evaluation)
        if not len(seen.outputs):
            return None
        metric = accuracy_metric(self._context, self.targets, seen) or r2_metric(seen)
        try:
            return None if metric is None else metric.judge(seen)
        except ValueError:  # shapes that do not belong together: nothing to tell
            return None

    def accuracy(self, evaluation: Evaluation, judged: Score) -> float:
        """Return the accuracy for the rules, whatever the metric; NaN where the task is no classification.

        Args:
            evaluation: The evaluation.
            judged: Its score.
        """
        if self._accuracy is None:
            return math.nan
        if isinstance(self._metric, RowMetric) and self._metric.name == "accuracy":
            return judged.value
        try:
            return self._accuracy.judge(self._seen(evaluation)).value
        except ValueError:  # shapes that do not belong together: no accuracy to tell
            return math.nan

    def _seen(self, evaluation: Evaluation) -> Evaluation:
        """Return an evaluation with targets that say what does not count; the user's own metric gets those as given."""
        targets = self._unmasked(evaluation.targets if evaluation.counted is None else evaluation.counted)
        outputs = evaluation.outputs
        if targets.dtype.kind == "f" and len(targets) == len(outputs):
            known = np.isfinite(targets).reshape(len(targets), -1).all(axis=1)
            if known.any() and not known.all():  # nothing can be said of the rest
                targets, outputs = targets[known], outputs[known]
        return replace(evaluation, targets=targets, outputs=outputs)

    def _unmasked(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Return targets with the class index that does not count in the form that all else knows: negative."""
        if self._masked is None or self._masked < 0 or targets.dtype.kind not in "iu":
            return targets
        return np.where(targets == self._masked, MASKED, targets.astype(np.int64))
