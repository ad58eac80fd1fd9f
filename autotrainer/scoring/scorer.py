"""Scores all trainings of one `fit` by one metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.spec import Evaluation
from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.data import ArrayData, Data
from autotrainer.records.signals import Floats
from autotrainer.records.task import MASKED, TargetSummary, TaskContext
from autotrainer.scoring.constant_prediction import constant_loss, constant_outputs, mean_output
from autotrainer.scoring.metric_selection import (
    MetricSelection,
    accuracy_metric,
    class_weights,
    estimates_targets,
    r2_metric,
)
from autotrainer.scoring.metrics import TRIVIAL_R2, LossMetric, Metric, RowMetric, Score, WholeMetric
from autotrainer.scoring.significance import row_gains, significant

__all__ = ["FITTED", "Judgement", "Scorer"]

_SHARES = ("accuracy", "balanced_accuracy")
"""Metrics that are shares of correct predictions."""
_FEW_ROWS = 10
"""Rows below which a metric without a value per row does not show that a model beats a constant prediction."""
_MIN_SKILL = 0.5
"""Skill from which a model clearly beats a constant prediction on rows that it was trained on, however few these are: 0
is the constant prediction, 1 a perfect model."""
_MIN_FALL = 0.01
"""Smallest share by which a loss must be below that of a constant prediction."""
FITTED = 0.01
"""Share of the error of zero outputs below which a model fits targets that are all the same, such as those of one row:
a constant prediction is perfect there, and can't be beaten."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a score compares with that of the best constant prediction on the same rows.

    Attributes:
        better: Whether it is better by more than noise.
        score: The score, in the metric's own sign.
        constant: That of the constant prediction; NaN if it is unknown, and ``better`` True then.
        decisive: Whether there are enough rows for a perfect score to be better by more than noise.
        skill: Share of the way from the constant prediction to a perfect score; NaN if that is unknown.
    """

    better: bool
    score: float
    constant: float = math.nan
    decisive: bool = True
    skill: float = math.nan

    @property
    def clear(self) -> bool:
        """Whether it is better by more than noise, or very much better: for rows that the model was trained on."""
        return self.better or self.skill > _MIN_SKILL


class Scorer:
    """Scores evaluations; the first one selects the metric.

    Args:
        choice: The user's choice of metric.
        context: The original training.
        train: Training data.
        masked: Class index that the loss ignores, and so does the accuracy; None without one.
        exact: See `Metric`.
    """

    def __init__(
        self,
        choice: MetricSelection,
        context: TaskContext,
        train: Data,
        masked: int | None = None,
        *,
        exact: bool = False,
    ) -> None:
        self._exact = exact
        self._choice, self._context, self._masked = choice, context, masked
        self._summary = DataSummary()
        if isinstance(train, ArrayData):
            self._summary.add_targets(self._unmasked(train.targets))
        self._metric: Metric | None = None
        self._estimates = True
        self._accuracy: Metric | None = None
        self._constant: Score | None = None
        self._zero_error = math.nan
        self._constant_outputs: list[Floats] | None = None
        self._class_weights: Floats | None = None

    @property
    def metric(self) -> Metric | None:
        """The metric; None before the first evaluation."""
        return self._metric

    @property
    def weighted(self) -> bool:
        """Whether the original loss weights classes or rows."""
        return self._context.loss.weighted

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
        countable = self._countable(evaluation) if isinstance(metric, RowMetric) else evaluation
        score = metric.score(countable)
        if self._constant is None and isinstance(metric, RowMetric):
            self._constant = self._constant_score(countable)
            self._zero_error = self._error_of_zeros(countable)
            self._class_weights = self._weights_of_classes(countable)
        elif self._constant is None and isinstance(metric, LossMetric):
            loss, self._zero_error = self._constant_loss(evaluation), self._error_of_zeros(evaluation)
            self._constant = Score(-metric.sign * loss, 0.0, None, None)
        return score

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
            self._metric.exact = self._exact
            if len(evaluation.outputs) and not self._context.loss.of_distance:
                self._accuracy = accuracy_metric(self._context, self.targets, countable)
            self._estimates = self._accuracy is not None or estimates_targets(self._context.loss, countable)
        return self._metric

    def above_trivial(self, score: Score | None) -> bool:
        """Return whether a score is clearly above that of the best constant prediction; True if that is unknown."""
        return score is not None and self.judge(score).better

    def judge(self, score: Score) -> Judgement:
        """Compare a score on the validation data with that of the best constant prediction on the same rows.

        R² must also exceed 0.05. If the loss weights classes, accuracy is compared with equal weights of the classes.
        """
        metric = self._metric
        if metric is None or (self._constant is None and not isinstance(metric, WholeMetric)):
            return Judgement(True, score.value)
        if isinstance(metric, WholeMetric):
            if score.evaluation is None or not score.evaluation.targets.size:
                return Judgement(True, score.value)
            if self._constant_outputs is None:  # of a user's metric that may be slow
                outputs = constant_outputs(score.evaluation, self.targets, self._context)
                best, _ = self._best_constant(score.evaluation, outputs)
                self._constant_outputs = [] if best is None else [best]
            return _judgement(metric, score, self._constant_score(score.evaluation, self._constant_outputs))
        if self._class_weights is not None and score.rows is not None and self._constant is not None:
            return _judgement(
                metric, _reweighted(score, self._class_weights), _reweighted(self._constant, self._class_weights)
            )
        return _judgement(metric, score, self._constant, self._zero_error)

    def judge_rows(self, evaluation: Evaluation) -> Judgement:
        """Compare the score on other rows with that of the best constant prediction on them."""
        metric = self.select_metric(evaluation)
        if isinstance(metric, LossMetric):
            constant = Score(-metric.sign * self._constant_loss(evaluation), 0.0, None, None)
            return _judgement(metric, metric.score(evaluation), constant, self._error_of_zeros(evaluation))
        countable = self._countable(evaluation) if isinstance(metric, RowMetric) else evaluation
        constant_score, zero_error = self._constant_score(countable), self._error_of_zeros(countable)
        return _judgement(metric, metric.score(countable), constant_score, zero_error)

    def _error_of_zeros(self, evaluation: Evaluation) -> float:
        """Return the error of outputs that are all zero; NaN if it is unknown or 0, 0 for accuracy and R²."""
        metric, family = self._metric, self._context.loss.family
        targets = np.asarray(evaluation.targets, np.float64)
        if metric is None or not targets.size or metric.name in ("accuracy", "balanced_accuracy", "r2"):
            return 0.0
        if metric.name == "mae" or (isinstance(metric, LossMetric) and family == "absolute_error"):
            return float(np.abs(targets).mean()) or math.nan
        if metric.name == "mse" or (isinstance(metric, LossMetric) and family == "squared_error"):
            return float(np.square(targets).mean()) or math.nan
        return math.log(2) if self._context.loss.classifies and isinstance(metric, LossMetric) else math.nan

    def _constant_score(self, evaluation: Evaluation, constants: Sequence[Floats] | None = None) -> Score | None:
        """Return the best score of a constant prediction; None if the metric fits none.

        Args:
            evaluation: Outputs and targets.
            constants: Outputs that the targets suggest; None if they are not known yet.
        """
        if constants is None:
            accuracy = isinstance(self._metric, RowMetric) and self._metric.name in _SHARES
            constants = constant_outputs(evaluation, self.targets, self._context, accuracy=accuracy)
        return self._best_constant(evaluation, [*constants, *mean_output(evaluation)])[1]

    def _best_constant(self, evaluation: Evaluation, constants: Sequence[Floats]) -> tuple[Floats | None, Score | None]:
        """Return the constant outputs of one row with the best score, and that score; None if the metric fits none."""
        metric, best, best_outputs = self._metric, None, None
        assert metric is not None, "the metric is selected before it scores"
        given = np.asarray(evaluation.outputs)
        narrow = metric.name in _SHARES and given.dtype.kind == "f"  # a function of the order of outputs only
        for constant in constants:
            wider = constant.size > given[0].size  # one unit for each of several classes
            shape = (len(given), *constant.shape) if wider else given.shape
            outputs = np.broadcast_to(constant.astype(given.dtype) if narrow else constant, shape)
            score = None
            with suppress(Exception):  # a metric of the user's may be undefined there, such as an F score
                score = metric.score(replace(evaluation, outputs=outputs))
            if score is None or not math.isfinite(score.value):
                continue
            if best is None or metric.gain(score, best) > 0:
                best, best_outputs = score, constant
        return best_outputs, best

    def _weights_of_classes(self, evaluation: Evaluation) -> Floats | None:
        """Return weights of rows with which all classes count alike, if the loss weights classes; else None."""
        if not self._context.loss.weighted or getattr(self._metric, "name", "") != "accuracy":
            return None
        return class_weights(evaluation.targets, self.targets)

    def _constant_loss(self, evaluation: Evaluation) -> float:
        summary = DataSummary()
        if len(evaluation.targets):
            summary.add_targets(self._countable(evaluation).targets)
        return constant_loss(self._context.loss, summary.targets) if len(evaluation.targets) else math.nan

    def score_rows(self, evaluation: Evaluation) -> Score | None:
        """Score an evaluation by accuracy or R², whatever the metric; None if neither fits the task."""
        countable = self._countable(evaluation)
        if not len(countable.outputs):
            return None
        loss = self._context.loss
        if (
            not self._estimates
            or loss.judged_by_value
            or (loss.expects in ("log_values", "log_probabilities") and not loss.classifies)
        ):
            return None  # outputs do not estimate the targets
        metric = accuracy_metric(self._context, self.targets, countable) or r2_metric(countable, self._context.loss)
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
        if targets.dtype.kind == "f" and 0 < len(targets) == len(outputs):
            finite = np.isfinite(targets).reshape(len(targets), -1).all(axis=1)
            if finite.any() and not finite.all():
                targets, outputs = targets[finite], outputs[finite]
        return replace(evaluation, targets=targets, outputs=outputs)

    def _unmasked(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Return targets with the ignored class index replaced by `MASKED`."""
        if self._masked is None or self._masked < 0 or targets.dtype.kind not in "iu":
            return targets
        return np.where(targets == self._masked, MASKED, targets.astype(np.int64))


def _judgement(metric: Metric, score: Score, constant: Score | None, zero_error: float = math.nan) -> Judgement:
    if constant is None or math.isnan(constant.value):
        return Judgement(True, score.value)
    gain = metric.gain(score, constant)
    perfect = 0.0 if isinstance(metric, LossMetric) else metric.perfect
    room = abs(perfect - constant.value)
    if room == 0:
        fits = math.isnan(zero_error) or abs(score.value - constant.value) <= FITTED * zero_error
        return Judgement(fits, score.value, constant.value)
    skill = gain / room if room > 0 else math.nan
    if isinstance(metric, LossMetric):
        better, decisive = _below_constant(score, constant), True
    elif isinstance(metric, RowMetric):
        better, decisive = _beats(metric, score, constant), _is_decisive(constant, perfect)
    else:
        rows = 0 if score.evaluation is None else len(score.evaluation.outputs)
        better, decisive = _beats(metric, score, constant), rows >= _FEW_ROWS
    better &= metric.name != "r2" or score.value > TRIVIAL_R2
    value = 0.0 if metric.name == "r2" else constant.value  # exactly, but for rounding
    return Judgement(better, score.value, value, decisive, skill)


def _beats(metric: Metric, score: Score, constant: Score) -> bool:
    """Return whether a score is above that of a constant prediction by more than the noise of the rows."""
    finite = not math.isnan(score.value) and score.nonfinite <= constant.nonfinite
    return finite and metric.exceeds_noise(score, constant)


def _reweighted(score: Score, weights: Floats) -> Score:
    """Return an accuracy with other weights of the rows."""
    assert score.rows is not None, "an accuracy has a value per row"
    mean = float((score.rows * weights).sum() / weights.sum())
    return replace(score, value=mean, weights=weights)


def _below_constant(score: Score, constant: Score) -> bool:
    """Return whether a loss is below that of a constant prediction: by more than the noise of blocks of rows."""
    if abs(score.value) > (1 - _MIN_FALL) * abs(constant.value):
        return False
    if score.rows is None:
        return True
    return significant(score.rows + abs(constant.value))


def _is_decisive(constant: Score, perfect: float) -> bool:
    """Return whether perfect predictions of these rows would be better than the constant one by more than noise."""
    if constant.rows is None or math.isnan(perfect):
        return True
    weights = np.ones(len(constant.rows)) if constant.weights is None else constant.weights
    return significant(row_gains(np.full(len(constant.rows), perfect), constant.rows, weights))
