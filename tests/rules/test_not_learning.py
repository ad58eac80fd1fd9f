from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import OptimizerInfo, TargetSummary
from autotrainer.rules.not_learning import NotLearning
from autotrainer.rules.slow_convergence import SlowConvergence

FLAT: dict[str, Any] = {"losses": lambda t: 0.7}
CHANCE: dict[str, Any] = FLAT | {"scalars": {"accuracy": 0.5}}
REAL: dict[str, Any] = {"targets": "real", "loss": "mse"}
SURROGATE: dict[str, Any] = {
    "losses": lambda t: 3.0,
    "targets": "real",
    "loss": "custom",
    "scalars": {"squared_error": np.nan},
}


def below_its_start(t: int) -> float:
    """A policy's loss: noise that grows as the policy decides, around a level below that of the first steps."""
    noise = math.sin(12.9898 * t * t)
    return -2.14 + 0.1 * noise if t < 10 else -2.33 + 0.5 * noise


ALIKE: dict[str, Any] = {
    "loss": "none",
    "targets": TargetSummary(),
    "losses": lambda t: 1.38 + 0.001 * np.sin(t),
    "output_activation": "softmax",
    "output_units": 4,
    "scalars": {"accuracy": np.nan, "output_spread": 0.002, "output_row_sum": 1.0},
}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(CHANCE, "error", id="chance, flat"),
        pytest.param(CHANCE | {"steps": 180}, "error", id="chance, a third of the schedule"),
        pytest.param(CHANCE | {"steps": 110}, None, id="chance, young"),
        pytest.param(CHANCE | {"planned_epochs": None}, "warning", id="no schedule"),
        pytest.param(CHANCE | {"planned_epochs": None, "steps": 100}, None, id="no schedule, young"),
        pytest.param(
            CHANCE | {"steps": 40, "scalars": {"accuracy": 0.5, "output_spread": 1e-9}}, "error", id="constant output"
        ),
        pytest.param(CHANCE | {"steps": 12, "scalars": {"accuracy": 0.5, "grad_norm": 0.0}}, "error", id="no gradient"),
        pytest.param({"scalars": {"accuracy": 1.0, "grad_norm": 0.0}}, None, id="no gradient at a perfect fit"),
        pytest.param(
            CHANCE | {"losses": lambda t: 0.7 - 5e-4 * t, "steps": 300}, None, id="chance, but the loss falls clearly"
        ),
        pytest.param(
            CHANCE | {"scalars": {"accuracy": 0.5, "grad_norm": lambda t: 0.01 * 1.01**t}, "steps": 400},
            None,
            id="a plateau that is being left",
        ),
        pytest.param(
            FLAT
            | {"scalars": {"accuracy": np.nan}, "epochs": {"val_accuracy": lambda t: 0.58, "accuracy": lambda t: 0.5}},
            "error",
            id="the same accuracy every epoch",
        ),
        pytest.param(
            FLAT
            | {"scalars": {"accuracy": np.nan}, "epochs": {"val_accuracy": lambda t: 0.8, "accuracy": lambda t: 0.8}},
            None,
            id="the same accuracy every epoch, but a good one",
        ),
        pytest.param({}, None, id="learns"),
        pytest.param(
            SURROGATE | {"losses": lambda t: max(0.0, 1 - t / 200), "scalars": {"grad_norm": lambda t: float(t < 200)}},
            None,
            id="every row satisfies its margin",
        ),
        pytest.param(
            SURROGATE | {"losses": lambda t: max(0.5, 1 - t / 200), "scalars": {"grad_norm": lambda t: float(t < 100)}},
            "error",
            id="no gradient, but a loss",
        ),
        pytest.param(
            SURROGATE | {"losses": lambda t: min(0.0, t / 200 - 1), "scalars": {"grad_norm": lambda t: float(t < 200)}},
            "warning",
            id="no gradient and no loss, as of a policy whose returns are equal",
        ),
        pytest.param(FLAT | {"scalars": {"accuracy": 0.62}}, None, id="above chance"),
        pytest.param(
            FLAT | {"targets": "one_hot", "loss": "ce", "output_units": 4, "scalars": {"accuracy": 0.25}},
            "error",
            id="chance of four classes",
        ),
        pytest.param(REAL | FLAT | {"scalars": {"squared_error": 1.0}}, "error", id="regression at the mean"),
        pytest.param(REAL | FLAT | {"scalars": {"squared_error": 40.0}}, "error", id="regression far below the mean"),
        pytest.param(REAL | {"scalars": {"squared_error": 0.5}}, None, id="regression learns"),
        pytest.param(
            {"losses": lambda t: 3.0, "targets": "real", "loss": "custom", "scalars": {"squared_error": np.nan}},
            "warning",
            id="only a flat loss is known",
        ),
        pytest.param(ALIKE, "error", id="only the outputs are known, equal for all inputs"),
        pytest.param(
            ALIKE | {"scalars": ALIKE["scalars"] | {"output_spread": 0.03}}, "warning", id="outputs of rare events"
        ),
        pytest.param(ALIKE | {"output_activation": "linear"}, "warning", id="outputs that are no probabilities"),
        pytest.param(ALIKE | {"steps": 60}, None, id="outputs equal for all inputs, early"),
        pytest.param(ALIKE | {"losses": lambda t: 1.5 - 0.002 * t, "steps": 300}, None, id="outputs still change"),
        pytest.param(
            SURROGATE | {"optimizer": OptimizerInfo("adam", several=True)}, None, id="a loss of several optimizers"
        ),
        pytest.param(SURROGATE | {"losses": lambda t: 0.1 * np.sin(t)}, None, id="a loss around zero"),
        pytest.param(
            SURROGATE | {"terms": {"mse_loss": 3.0, "remainder": lambda t: 0.1 * np.sin(t)}},
            None,
            id="a loss of values beside the objective of a policy",
        ),
        pytest.param(
            SURROGATE | {"terms": {"mse_loss": 3.0, "remainder": lambda t: 1 + 0.1 * np.sin(t)}},
            "warning",
            id="a loss beside a penalty",
        ),
        pytest.param(SURROGATE | {"losses": below_its_start}, None, id="lower than at the start, with more noise"),
        pytest.param(
            {"losses": lambda t: 1 + np.exp(-t / 50), "loss": "custom", "targets": "real"},
            None,
            id="only a loss, falling",
        ),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = NotLearning().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_imbalanced_classes_are_compared_with_the_most_common_one(
    build: Callable[..., Any], target_summaries: dict[str, Any]
) -> None:
    from dataclasses import replace

    rare = replace(target_summaries["binary"], majority=0.8)
    assert NotLearning().check(*build(targets=rare, losses=lambda t: 0.5, scalars={"accuracy": 0.8})) is not None
    assert NotLearning().check(*build(targets=rare, losses=lambda t: 0.3, scalars={"accuracy": 0.9})) is None


def test_batches_of_one_are_judged_by_cross_entropy(build: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    scalars = {"batch_size": 1, "accuracy": lambda t: float(rng.random() < 0.5)}
    stuck = build(losses=lambda t: 0.693 + 0.05 * rng.standard_normal(), scalars=scalars)
    assert NotLearning().check(*stuck) is not None
    learns = build(losses=lambda t: 0.4 + 0.05 * rng.standard_normal(), scalars=scalars)
    assert NotLearning().check(*learns) is None


def test_late_learning_is_not_reported(build: Callable[..., Any]) -> None:
    late = build(
        losses=lambda t: 0.69 if t < 300 else 0.2, scalars={"accuracy": lambda t: 0.5 if t < 300 else 0.95}, steps=580
    )
    assert NotLearning().check(*late) is None


def test_slowly_falling_loss_is_not_called_flat(build: Callable[..., Any]) -> None:
    run = build(**CHANCE | {"losses": lambda t: 0.8 - 1e-4 * t, "finished": True})
    slow, stuck = SlowConvergence().check(*run), NotLearning().check(*run)
    assert slow is not None
    assert "the loss fell" in slow.message
    assert stuck is not None
    assert "flat" not in stuck.message


@pytest.mark.parametrize(
    ("case", "message"),
    [
        pytest.param(
            {},
            "The loss is flat, and accuracy is 0.5 (always predicting the most common class gives 0.5) after 600 "
            "steps.",
            id="flat",
        ),
        pytest.param(
            {"losses": lambda t: 2 * math.log(2), "scalars": {"accuracy": np.nan}},
            "The loss is flat and is 2 times that of a constant prediction after 600 steps.",
            id="judged by the loss",
        ),
        pytest.param(
            {"losses": lambda t: 0.7 if t < 400 else np.inf},
            "The loss is NaN or infinite after 600 steps.",
            id="not finite",
        ),
    ],
)
def test_message_describes_the_loss(build: Callable[..., Any], case: dict[str, Any], message: str) -> None:
    finding = NotLearning().check(*build(**CHANCE | case))
    assert finding is not None
    assert finding.message == message
