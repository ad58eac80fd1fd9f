from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.wrong_training_mode import WrongTrainingMode

STUCK: dict[str, Any] = {"losses": lambda t: 0.7}
EVAL = {"accuracy": 0.5, "training_mode": 0.0}


def evaluated(*modes: float, **case: Any) -> dict[str, Any]:
    """Return a run whose last evaluations were in these modes."""
    ends = 30 - len(modes)
    return {"epochs": {"evaluation_mode": lambda e: modes[e - ends] if e >= ends else np.inf}, "dropout": 0.5} | case


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(STUCK | {"scalars": EVAL}, "error", id="trains in evaluation mode and is stuck"),
        pytest.param(STUCK | {"scalars": EVAL, "planned_epochs": None}, "warning", id="no schedule"),
        pytest.param(STUCK | {"scalars": EVAL, "steps": 8}, "warning", id="young"),
        pytest.param(STUCK | {"scalars": EVAL, "steps": 4}, None, id="first steps"),
        pytest.param({"scalars": {"training_mode": 0.0}}, "warning", id="trains in evaluation mode, and learns"),
        pytest.param(
            STUCK | {"scalars": EVAL | {"training_mode": lambda t: float(t < 20)}},
            "error",
            id="train() was not called again after the first evaluation",
        ),
        pytest.param(
            STUCK | {"scalars": EVAL | {"training_mode": lambda t: float(t != 8)}, "steps": 12}, None, id="one step"
        ),
        pytest.param(STUCK | {"scalars": EVAL | {"training_mode": 1.0}}, None, id="stuck in training mode"),
        pytest.param(STUCK | {"scalars": EVAL | {"training_mode": np.nan}}, None, id="makes no difference"),
        pytest.param(evaluated(1, 1), "error", id="two evaluations with dropout"),
        pytest.param(evaluated(1, 1, dropout=0.0), "warning", id="with batch normalization alone"),
        pytest.param(evaluated(1, 1, dropout=None), "warning", id="rate unknown"),
        pytest.param(evaluated(1, 1, planned_epochs=None), "error", id="a fact, whatever the schedule"),
        pytest.param(evaluated(1), None, id="one trial"),
        pytest.param(evaluated(1, 1, *[0] * 8), None, id="fixed"),
        pytest.param(evaluated(*[0] * 8, 1, 1), None, id="two of ten"),
        pytest.param(evaluated(0, 0, 0), None, id="evaluation mode"),
        pytest.param({"dropout": 0.5}, None, id="no evaluation"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = WrongTrainingMode().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_names_the_missing_call(build: Callable[..., Any]) -> None:
    training = WrongTrainingMode().check(*build(**STUCK, scalars=EVAL))
    evaluation = WrongTrainingMode().check(*build(**evaluated(1, 1, 1)))
    assert training is not None
    assert "model.train() is missing" in training.message
    assert evaluation is not None
    assert "model.eval() is missing" in evaluation.message
    assert evaluation.evidence["evaluations"] == 3


def test_low_dropout_rate_is_a_warning(build: Callable[..., Any]) -> None:
    findings = [WrongTrainingMode(dropout=rate).check(*build(**evaluated(1, 1))) for rate in (0.4, 0.6)]
    assert [f.severity for f in findings if f is not None] == ["error", "warning"]
