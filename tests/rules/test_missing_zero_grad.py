from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.missing_zero_grad import MissingZeroGrad

BAD: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5, "stale_gradients": 1.0}}
SUMMED = {"gradient_cosine": 0.99, "grad_norm": lambda t: 0.1 + 0.01 * t, "accuracy": 0.5}
SWINGS = lambda t: 1.0 + 0.5 * np.sin(t)  # noqa: E731


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(BAD, "error", id="never reset"),
        pytest.param(BAD | {"steps": 7, "planned_steps": 600}, "error", id="never reset, young"),
        pytest.param(BAD | {"planned_epochs": None}, "warning", id="no schedule"),
        pytest.param({"scalars": {"stale_gradients": 1.0}}, "warning", id="never reset, but learns"),
        pytest.param(
            BAD | {"scalars": {"accuracy": 0.5, "stale_gradients": lambda t: float(t % 3 > 0)}},
            "error",
            id="reset every third step",
        ),
        pytest.param(
            BAD | {"scalars": {"accuracy": 0.5, "stale_gradients": 0.0}}, None, id="reset, and stuck for another reason"
        ),
        pytest.param(
            BAD | {"scalars": {"accuracy": 0.5, "stale_gradients": lambda t: float(t == 599)}}, None, id="once"
        ),
        pytest.param(
            BAD | {"scalars": {"accuracy": 0.5, "stale_gradients": lambda t: float(t < 200)}},
            None,
            id="fixed long ago",
        ),
        pytest.param({"losses": SWINGS, "scalars": SUMMED}, "warning", id="by direction and norm"),
        pytest.param({"losses": SWINGS, "scalars": SUMMED | {"stale_gradients": 0.0}}, None, id="reset"),
        pytest.param({"losses": SWINGS, "scalars": SUMMED, "framework": "keras3"}, None, id="Keras always resets"),
        pytest.param({"scalars": SUMMED | {"accuracy": 0.9}}, None, id="leaves a plateau: the loss falls"),
        pytest.param({"losses": SWINGS, "scalars": SUMMED | {"gradient_cosine": 0.5}}, None, id="turning gradients"),
        pytest.param({"losses": SWINGS, "scalars": SUMMED | {"grad_norm": 0.5}}, None, id="steady norm"),
        pytest.param({"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}, None, id="not measured"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = MissingZeroGrad().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_message_has_the_share_of_steps(build: Callable[..., Any]) -> None:
    finding = MissingZeroGrad().check(*build(**BAD))
    assert finding is not None
    assert finding.evidence["share"] == 1
    assert "zero_grad() is missing" in finding.message
    assert MissingZeroGrad(share=1.0).check(*build(**BAD)) is not None
