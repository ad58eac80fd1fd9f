"""Scores judged by the best constant prediction, for every kind of target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotrainer.adapter.spec import Evaluation
from autotrainer.records.data import ArrayData
from autotrainer.records.task import LossInfo, TaskContext
from autotrainer.scoring.constant_prediction import constant_outputs
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.scorer import Judgement, Scorer

RANDOM = np.random.default_rng(0)
CE = LossInfo("ce", "cross_entropy", "logits", "index", 1)
BCE = LossInfo("bce", "binary_cross_entropy", "logits")
MSE = LossInfo("mse", "squared_error", "values")
LABELS = RANDOM.integers(0, 3, 200)
MANY = (RANDOM.random((200, 5)) < 0.2).astype(np.float32)
NUMBERS = RANDOM.normal(size=(200, 2))
TAGS = RANDOM.integers(0, 3, (60, 7))


def _judge(loss: LossInfo, targets: Any, outputs: Any, metric: Any = "auto", units: int | None = None) -> Judgement:
    context = TaskContext(loss=loss, output_units=units or outputs.shape[1])
    scorer = Scorer(MetricSelection(metric), context, ArrayData(np.zeros(len(targets)), targets))
    return scorer.judge(scorer.score(Evaluation(np.asarray(outputs, np.float64), targets, 0.5)))


def _errors(targets: Any, outputs: Any) -> float:
    return float(np.mean((outputs - targets) ** 2))


CASES = [
    pytest.param(CE, LABELS, 4 * np.eye(3)[LABELS], "auto", id="classes"),
    pytest.param(CE, TAGS, 4 * np.moveaxis(np.eye(3)[TAGS], -1, 1), "auto", id="tags"),
    pytest.param(BCE, MANY, 4 * MANY - 2, "auto", id="labels"),
    pytest.param(MSE, NUMBERS, NUMBERS + 0.1, "auto", id="numbers"),
    pytest.param(MSE, NUMBERS, NUMBERS + 0.1, "mae", id="absolute error"),
    pytest.param(BCE, 1.0 * (LABELS[:, None] > 0), 4.0 * (LABELS[:, None] > 0) - 2, "auc", id="area"),
    pytest.param(CE, LABELS, 4 * np.eye(3)[LABELS], lambda y, p: float((p.argmax(1) == y).mean()), id="callable"),
]


@pytest.mark.parametrize(("loss", "targets", "outputs", "metric"), CASES)
def test_only_useful_predictions_beat_a_constant(loss: LossInfo, targets: Any, outputs: Any, metric: Any) -> None:
    good = _judge(loss, targets, outputs, metric)
    assert good.better
    assert good.decisive
    constant = np.broadcast_to(outputs.mean(axis=0), outputs.shape)
    assert not _judge(loss, targets, constant, metric).better
    assert not _judge(loss, targets, np.random.default_rng(1).permutation(outputs), metric).better


def test_error_metric_of_the_user() -> None:
    context = TaskContext(loss=MSE, output_units=2)
    scorer = Scorer(MetricSelection(_errors, "min"), context, ArrayData(np.zeros(200), NUMBERS))
    judgement = scorer.judge(scorer.score(Evaluation(NUMBERS * 0, NUMBERS, 1.0)))
    assert not judgement.better
    assert judgement.constant == pytest.approx(NUMBERS.var(axis=0).mean(), rel=1e-6)


def test_metric_that_fails_on_constant_predictions_is_not_judged() -> None:
    def fails(targets: Any, outputs: Any) -> float:
        if np.ptp(outputs) == 0:
            raise ZeroDivisionError
        return 0.1

    judgement = _judge(MSE, NUMBERS[:, :1], NUMBERS[:, 1:], fails)
    assert judgement.better
    assert np.isnan(judgement.constant)


def test_four_rows_are_too_few_to_judge_by() -> None:
    targets = np.array([[0.0], [1.0], [1.0], [0.0]])
    judgement = _judge(BCE, targets, 4 * targets - 2, units=1)
    assert (judgement.decisive, judgement.better, judgement.clear) == (False, False, True)
    assert not _judge(BCE, targets, np.full((4, 1), -2.0), units=1).clear


def test_weighted_loss_is_judged_with_equal_weights_of_the_classes() -> None:
    rare = (np.arange(400) % 20 == 0).astype(np.int64)
    guess = rare | (np.random.default_rng(0).random(400) < 0.1)  # all rare rows, and a tenth of the others
    outputs = np.eye(2)[guess] * 4
    assert not _judge(CE, rare, outputs, "accuracy").better, "accuracy is below the share of the common class"
    weighted = LossInfo("ce", "cross_entropy", "logits", "index", 1, weighted=True)
    assert _judge(weighted, rare, outputs, "accuracy").better


@pytest.mark.parametrize(
    ("metric", "value", "better"),
    [
        ("balanced_accuracy", 0.95, True),  # all rare rows count as much as all others
        ("accuracy", 0.905, False),
        ("auto", 0.905, False),
    ],
)
@pytest.mark.parametrize("weighted", [True, False])
def test_rare_rows_count_by_balanced_accuracy_alone(metric: str, value: float, *, weighted: bool, better: bool) -> None:
    rare = (np.arange(400) % 20 == 0).astype(np.int64)
    guess = rare | (np.arange(400) % 10 == 5)  # all rare rows, and some of the others
    loss = LossInfo("ce", "cross_entropy", "logits", "index", 1, weighted=weighted)
    scorer = Scorer(MetricSelection(metric), TaskContext(loss=loss, output_units=2), ArrayData(np.zeros(400), rare))
    none, all_rare = (
        scorer.score(Evaluation(4.0 * np.eye(2)[classes], rare, 0.5)) for classes in (np.zeros(400, int), guess)
    )
    assert scorer.metric is not None
    assert all_rare.value == pytest.approx(value, abs=0.01)
    assert scorer.metric.better(all_rare, none) is better


def test_a_loss_with_label_smoothing_has_no_known_constant() -> None:
    losses = [CE, LossInfo("ce", "cross_entropy", "logits", "index", 1, smoothed=True)]
    assert [_judge(loss, LABELS, 4 * np.eye(3)[LABELS], "loss").constant > 1 for loss in losses] == [True, False]


def test_accuracy_is_compared_with_few_constants_and_other_metrics_once_with_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def metric(y: Any, p: Any) -> float:
        calls.append(len(y))
        return float((p.argmax(1) == y).mean())

    outputs = 4 * np.eye(20)[LABELS]
    context = TaskContext(loss=CE, output_units=20)
    scorer = Scorer(MetricSelection(metric), context, ArrayData(np.zeros(200), LABELS))
    score = scorer.score(Evaluation(outputs, LABELS, 0.5))
    first = scorer.judge(score)
    before = len(calls)
    assert scorer.judge(score) == first
    assert len(calls) - before < 2 * 200 + 5
    evaluation = Evaluation(outputs, LABELS, 0.5)
    assert len(constant_outputs(evaluation, scorer.targets, context)) == 21
    (common,) = constant_outputs(evaluation, scorer.targets, context, accuracy=True)
    assert common.argmax() == np.bincount(LABELS).argmax()


@pytest.mark.parametrize("shape", [(60,), (60, 1)])
def test_class_labels_in_a_column_are_scored_by_row_under_a_loss_of_ones_own(shape: tuple[int, ...]) -> None:
    labels = (np.arange(60) % 3).reshape(shape)
    context = TaskContext(loss=LossInfo("focal", "custom", "unknown", "unknown"), output_units=3)
    scorer = Scorer(MetricSelection("auto"), context, ArrayData(np.zeros(60), labels))
    evaluation = Evaluation(4.0 * np.eye(3)[labels.reshape(-1)], labels, 0.02)
    scorer.score(evaluation)
    rows = scorer.score_rows(evaluation)
    assert rows is not None
    assert rows.value == 1
