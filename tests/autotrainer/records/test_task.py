from __future__ import annotations

import json
import math

import numpy as np
import pytest

from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import LossInfo, OptimizerInfo, TaskContext, TaskKind, correct_rows

CE, BCE, MSE = "cross_entropy", "binary_cross_entropy", "squared_error"


@pytest.mark.parametrize(
    ("targets", "family", "units", "kind"),
    [
        ([0, 1, 2], CE, 3, "multiclass"),
        (np.eye(3), CE, 3, "multiclass"),
        (np.eye(3), MSE, 3, "multiclass"),
        ([[1, 1, 0], [0, 0, 0]], BCE, 3, "multilabel"),
        ([0.0, 1.0], BCE, 1, "binary"),
        ([0.0, 1.0], MSE, 1, "binary"),
        ([-1.0, 1.0], MSE, 1, "binary"),
        ([0, 1], CE, 2, "multiclass"),
        ([0.3, 0.7], BCE, 1, "binary"),
        ([1.5, 2.5], MSE, 1, "regression"),
        ([3.0, 7.0, 9.0], MSE, 1, "regression"),
        ([0, 1, 2], MSE, 3, "multiclass"),
        ([], MSE, 1, "unknown"),
    ],
)
def test_kind_of_task(targets: object, family: str, units: int, kind: TaskKind) -> None:
    data = DataSummary()
    data.add_targets(np.asarray(targets))
    assert TaskContext(loss=LossInfo(family=family), output_units=units).kind(data.targets) == kind


@pytest.mark.parametrize(
    ("targets", "family", "activation", "units", "kind"),
    [
        ([1.0, 2.0], "custom", "sigmoid", 1, "binary"),
        ([3.0, 7.0], "custom", "sigmoid", 1, "binary"),
        ([1.0, 2.0], "custom", None, 1, "regression"),
        ([1.0, 2.5], "custom", "sigmoid", 1, "regression"),
        ([1.0, 2.0, 3.0], "custom", "sigmoid", 1, "regression"),
        ([1.0, 2.0], MSE, "sigmoid", 1, "regression"),
    ],
)
def test_two_labels_with_sigmoid_and_custom_loss_are_binary(
    targets: object, family: str, activation: str | None, units: int, kind: TaskKind
) -> None:
    data = DataSummary()
    data.add_targets(np.asarray(targets))
    context = TaskContext(loss=LossInfo(family=family), output_units=units, output_activation=activation)
    assert context.kind(data.targets) == kind


NAN = math.nan


@pytest.mark.parametrize(
    ("outputs", "targets", "kind", "options", "right"),
    [
        ([[0.1, 0.9], [0.8, 0.2]], [1, 1], "multiclass", {}, [1, 0]),
        ([[0.1, 0.9], [0.8, 0.2]], [[0, 1], [1, 0]], "multiclass", {}, [1, 1]),
        ([[0.1, NAN], [0.8, 0.2]], [1, 0], "multiclass", {}, [0, 1]),
        ([[0.7], [0.7]], [1.0, 0.0], "binary", {}, [1, 0]),
        ([[0.2], [-0.2]], [[1.0], [0.0]], "binary", {"cut": 0.0}, [1, 1]),
        ([[0.2], [-0.2]], [[1.0], [-1.0]], "binary", {"cut": 0.0}, [1, 1]),
        ([[0.9, 0.1, 0.9]], [[1, 0, 0]], "multilabel", {}, [2 / 3]),
        ([[[0.1, 0.9], [0.9, 0.1]]], [[1, 1]], "multiclass", {}, [0.5]),
        ([[[0.1, 0.9], [0.9, 0.1]]], [[1, -100]], "multiclass", {}, [1]),
        ([[[0.1, 0.9], [0.9, 0.1]]], [[-1, -1]], "multiclass", {}, [NAN]),
        ([[[0.1, 0.9], [0.9, 0.1]]], [[1, 0]], "multiclass", {"class_axis": 1}, [1]),
    ],
)
def test_correct_rows(
    outputs: object, targets: object, kind: TaskKind, options: dict[str, float], right: list[float]
) -> None:
    measured = correct_rows(np.array(outputs), np.array(targets), kind, **options)  # type: ignore[arg-type]
    np.testing.assert_allclose(measured, right)


@pytest.mark.parametrize(("expects", "cut"), [("logits", 0.0), ("probabilities", 0.5)])
def test_decision_threshold(expects: str, cut: float) -> None:
    data = DataSummary()
    data.add_targets(np.array([0.0, 1.0]))
    assert TaskContext(loss=LossInfo(expects=expects)).cut(data.targets) == cut  # type: ignore[arg-type]


def test_context_json_round_trip_ignores_unknown_keys() -> None:
    context = TaskContext(
        "pytorch",
        loss=LossInfo("CrossEntropyLoss", CE, "logits"),
        optimizer=OptimizerInfo("sgd", 0.1),
        layers=(LayerInfo("fc", "dense", "relu", 8, 40),),
        planned_epochs=3,
    )
    values = json.loads(json.dumps(context.to_dict())) | {"later_version": 1}
    assert TaskContext.from_dict(values) == context
    values["optimizer"]["learning_rate"] = None
    assert math.isnan(TaskContext.from_dict(values).optimizer.learning_rate)
