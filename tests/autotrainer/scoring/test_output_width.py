"""Metrics of outputs that have another number of units than the targets need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotrainer.adapter.spec import Evaluation
from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.data import ArrayData
from autotrainer.records.task import LossInfo, TaskContext
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.scorer import Scorer

MSE = LossInfo("mse", "squared_error", "values")
BCE = LossInfo("bce", "binary_cross_entropy", "probabilities")
LOGITS = LossInfo("bce", "binary_cross_entropy", "logits")
LABELS = np.array([0, 1, 2, 2, 2, 2] * 10, "float32")[:, None]


def _scorer(loss: LossInfo, activation: str, units: int, targets: Any) -> Scorer:
    context = TaskContext(loss=loss, output_activation=activation, output_units=units)
    return Scorer(MetricSelection(), context, ArrayData(np.zeros((len(targets), 1)), targets))


@pytest.mark.parametrize(("loss", "activation"), [(BCE, "sigmoid"), (MSE, "sigmoid"), (LOGITS, "linear")])
def test_class_indices_under_one_unit_are_scored_by_accuracy(loss: LossInfo, activation: str) -> None:
    scorer = _scorer(loss, activation, 1, LABELS)
    narrow = scorer.score(Evaluation(np.where(LABELS == 0, -0.2, 0.8), LABELS, 0.0))
    assert scorer.metric is not None
    assert scorer.metric.name == "accuracy"
    assert narrow.value == pytest.approx(1 / 3), "a single unit can't predict class 2"
    wide = scorer.score(Evaluation(np.eye(3)[LABELS[:, 0].astype(int)], LABELS, 0.0))
    assert wide.value == 1
    constant = scorer.score(Evaluation(np.tile([0.1, 0.2, 0.7], (60, 1)), LABELS, 0.0))
    assert not scorer.judge(constant).better, "the most frequent class is a constant prediction"
    assert scorer.judge(wide).better


def test_whole_numbers_of_a_regression_stay_one() -> None:
    summary = DataSummary()
    summary.add_targets(LABELS)
    assert TaskContext(loss=MSE, output_activation="linear", output_units=1).kind(summary.targets) == "regression"
    pixels = DataSummary()
    pixels.add_targets(np.arange(3.0).repeat(16).reshape(3, 4, 4, 1))
    assert TaskContext(loss=MSE, output_activation="sigmoid", output_units=1).kind(pixels.targets) == "regression"


def test_r2_of_a_single_column_compared_with_several() -> None:
    targets = np.random.default_rng(0).normal(size=(50, 3))
    scorer = _scorer(MSE, "linear", 1, targets)
    broadcast = scorer.score(Evaluation(targets[:, :1], targets, 0.0))
    assert scorer.metric is not None
    assert scorer.metric.name == "r2"
    assert -2 < broadcast.value < 0.5
    assert scorer.score(Evaluation(targets, targets, 0.0)).value == 1


def test_r2_of_numbers_under_a_loss_of_logits_is_that_of_the_outputs() -> None:
    targets = 5 + np.random.default_rng(0).normal(size=(50, 1))
    scorer = _scorer(LOGITS, "linear", 1, targets)
    assert scorer.score(Evaluation(targets, targets, 0.0)).value == 1
