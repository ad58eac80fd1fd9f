"""A linear model beside the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotrainer.monitoring.summary import DataSummary, summarize
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, Observation
from autotrainer.records.task import LossInfo, TaskContext

CROSS_ENTROPY = LossInfo("CrossEntropyLoss", "cross_entropy", "logits", "either", 1)
BINARY = LossInfo("BCEWithLogitsLoss", "binary_cross_entropy", "logits")
SQUARED = LossInfo("MSELoss", "squared_error", "values")
ABSOLUTE = LossInfo("L1Loss", "absolute_error", "values")


def measure(kind: str, loss: LossInfo, *, features: int = 8, batches: int = 12, **context: Any) -> dict[str, float]:
    """Return the columns of the last of several batches, in which a network predicts noise."""
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(features, 3))
    data = DataSummary()
    units = 3 if kind in ("index", "one_hot") else 1
    facts = TaskContext(loss=loss, output_units=units, **context)
    values: dict[str, float] = {}
    for step in range(batches):
        inputs = draw.normal(size=(64, features)) * 100 + 1000
        scores = (inputs - 1000) @ weights
        targets = {
            "index": scores.argmax(axis=1),
            "one_hot": np.eye(3)[scores.argmax(axis=1)],
            "binary": (scores[:, :1] > 0).astype(np.float32),
            "signed": np.sign(scores[:, :1]),
            "value": scores[:, :1],
            "noise": draw.normal(size=(64, 1)),
        }[kind]
        outputs = draw.normal(size=(64, units))
        observation = Observation(
            step, np.full((0, len(LAYER_COLUMNS)), np.nan), inputs=inputs, outputs=outputs, targets=targets
        )
        values = dict(zip(STEP_COLUMNS, summarize(observation, 0, data, facts).scalars, strict=True))
    return values


@pytest.mark.parametrize(
    ("kind", "loss", "least", "gain"),
    [
        ("index", CROSS_ENTROPY, 0.7, 0.3),
        ("one_hot", CROSS_ENTROPY, 0.7, 0.3),
        ("binary", BINARY, 0.8, 0.3),
        ("value", SQUARED, 0.95, 0.3),
    ],
)
def test_linear_targets_are_learned(kind: str, loss: LossInfo, least: float, gain: float) -> None:
    values = measure(kind, loss)
    assert values["linear_score"] >= least
    assert values["linear_gain"] >= gain
    assert 4 <= values["linear_rows"] <= 32


def test_noise_is_not_learned() -> None:
    assert measure("noise", SQUARED)["linear_score"] < 0.3


def test_long_rows_are_averaged() -> None:
    assert measure("index", CROSS_ENTROPY, features=500, batches=4)["linear_rows"] > 0


@pytest.mark.parametrize(
    ("loss", "context"),
    [
        pytest.param(CROSS_ENTROPY, {"input_kind": "index"}, id="tokens"),
        pytest.param(CROSS_ENTROPY, {"managed": True}, id="managed trainings have baselines of their own"),
        pytest.param(LossInfo("ce", "cross_entropy", "logits", "either", 1, weighted=True), {}, id="weighted classes"),
    ],
)
def test_other_trainings_are_not_compared(loss: LossInfo, context: dict[str, Any]) -> None:
    assert np.isnan(measure("index", loss, **context)["linear_score"])


def test_losses_with_another_optimum_are_not_compared() -> None:
    assert np.isnan(measure("value", ABSOLUTE)["linear_score"])
