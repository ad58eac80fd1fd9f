from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from autotrainer.backends.keras3.layers.signed_logistic import SignedLogistic
from autotrainer.backends.keras3.model.losses import make_loss
from autotrainer.edits import SetLoss
from autotrainer.errors import ConfigError
from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.task import TargetSummary

LOGITS = np.array([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3]], "float32")
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
CROSS_ENTROPY = float(-np.log(PROBABILITIES[[0, 1], [0, 2]]).mean())


def summary(targets: Any) -> TargetSummary:
    data = DataSummary()
    data.add_targets(np.asarray(targets))
    return data.targets


def value(edit: SetLoss, targets: Any, outputs: Any) -> float:
    loss = make_loss(edit, summary(targets), (None, *np.shape(outputs)[1:]))
    return float(loss(np.asarray(targets), np.asarray(outputs, "float32")))


@pytest.mark.parametrize("targets", [np.array([0, 2]), np.array([[0], [2]]), np.array([0.0, 2.0]), np.eye(3)[[0, 2]]])
@pytest.mark.parametrize(
    ("expects", "outputs"),
    [("logits", LOGITS), ("probabilities", PROBABILITIES), ("log_probabilities", np.log(PROBABILITIES))],
)
def test_cross_entropy(targets: Any, expects: Any, outputs: Any) -> None:
    assert value(SetLoss("cross_entropy", expects), targets, outputs) == pytest.approx(CROSS_ENTROPY, rel=1e-5)


def test_cross_entropy_ignores_masked_tokens() -> None:
    outputs, targets = LOGITS[None], np.array([[0, -100]])
    expected = -np.log(PROBABILITIES[0, 0])
    assert value(SetLoss("cross_entropy", "logits"), targets, outputs) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("targets", [np.array([0, 1]), np.array([[0.0], [1.0]])])
@pytest.mark.parametrize("expects", ["logits", "probabilities"])
def test_binary_cross_entropy(targets: Any, expects: Any) -> None:
    logits = np.array([[1.0], [3.0]])
    outputs = logits if expects == "logits" else 1 / (1 + np.exp(-logits))
    expected = np.mean([np.log1p(np.exp(1.0)), np.log1p(np.exp(-3.0))])
    assert value(SetLoss("binary_cross_entropy", expects), targets, outputs) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("targets", [np.array([-1, 1]), np.array([[-1.0], [1.0]])])
def test_signed_logistic(targets: Any) -> None:
    expected = np.mean([np.log1p(np.exp(1.0)), np.log1p(np.exp(-3.0))])
    outputs = np.array([[1.0], [3.0]])
    assert value(SetLoss("signed_logistic", "logits"), targets, outputs) == pytest.approx(expected, rel=1e-5)
    outputs = 1 / (1 + np.exp(-outputs))
    assert value(SetLoss("signed_logistic", "probabilities"), targets, outputs) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("name", "expected"), [("squared_error", 2.5), ("absolute_error", 1.5)])
@pytest.mark.parametrize("targets", [np.array([1.0, 4.0]), np.array([[1.0], [4.0]])])
def test_regression_does_not_broadcast(name: Any, expected: float, targets: Any) -> None:
    assert value(SetLoss(name, "values"), targets, [[2.0], [2.0]]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "targets", "shape", "message"),
    [
        ("cross_entropy", np.array([0, 1]), (None, 1), "single unit"),
        ("cross_entropy", np.array([0, 7]), (None, 3), "3 units"),
        ("cross_entropy", np.array([0.5, 1.2]), (None, 3), "real numbers"),
        ("binary_cross_entropy", np.array([-1, 1]), (None, 1), r"\[0, 1\]"),
        ("binary_cross_entropy", np.array([0, 1]), (None, 2), "one target per output unit"),
        ("signed_logistic", np.array([0, 1]), (None, 1), "-1 and 1"),
        ("squared_error", np.ones((2, 3)), (None, 2), "needs targets as wide as the output: 2 columns, not 3"),
    ],
)
def test_incompatible_targets_and_outputs_are_refused(name: Any, targets: Any, shape: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_loss(SetLoss(name, "logits"), summary(targets), shape)


def test_signed_logistic_loss_survives_serialization() -> None:
    loss = SignedLogistic(from_logits=False)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(again, SignedLogistic)
    assert again.from_logits is False
