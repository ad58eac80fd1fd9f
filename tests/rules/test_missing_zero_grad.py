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
            id="mended long ago",
        ),
        pytest.param({"losses": SWINGS, "scalars": SUMMED}, "warning", id="by direction and norm"),
        pytest.param({"losses": SWINGS, "scalars": SUMMED | {"stale_gradients": 0.0}}, None, id="seen to be reset"),
        pytest.param({"losses": SWINGS, "scalars": SUMMED, "framework": "keras3"}, None, id="Keras always resets"),
        pytest.param({"scalars": SUMMED | {"accuracy": 0.9}}, None, id="leaves a plateau: the loss falls"),
        pytest.param({"losses": SWINGS, "scalars": SUMMED | {"gradient_cosine": 0.5}}, None, id="turning gradients"),
        pytest.param({"losses": SWINGS, "scalars": SUMMED | {"grad_norm": 0.5}}, None, id="steady norm"),
        pytest.param({"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}, None, id="not measured"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    found = MissingZeroGrad().check(*build(**case))
    assert (found.severity if found else None) == expected


def test_says_how_often(build: Callable[..., Any]) -> None:
    found = MissingZeroGrad().check(*build(**BAD))
    assert found is not None
    assert found.evidence["share"] == 1
    assert "zero_grad() is missing" in found.message
    assert MissingZeroGrad(share=1.0).check(*build(**BAD)) is not None
