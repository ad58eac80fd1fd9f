from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.nonfinite import NonFinite


def breaks(value: float) -> Callable[[int], float]:
    return lambda t: value if t < 300 else np.inf


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({"losses": breaks(0.5)}, "error", id="loss"),
        pytest.param(
            {"scalars": {"grad_norm": breaks(0.5)}, "table": {"grad_norm": breaks(0.5)}}, "error", id="gradient"
        ),
        pytest.param({"table": {"weight_norm": lambda t: [2.0, breaks(2.0)(t), 2.0]}}, "error", id="weights"),
        pytest.param({"table": {"activation_max_abs": np.inf}, "steps": 1}, "error", id="before training"),
        pytest.param({"epochs": {"val_loss": lambda e: np.inf}}, "error", id="validation loss"),
        pytest.param({"losses": lambda t: np.inf if t == 599 - 1 else 0.5}, None, id="once, and passed"),
        pytest.param({"losses": lambda t: np.inf if t == 100 else 0.5}, None, id="long ago"),
        pytest.param({"losses": lambda t: np.nan}, None, id="loss not known"),
        pytest.param({}, None, id="finite"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    found = NonFinite().check(*build(**case))
    assert (found.severity if found else None) == expected


def test_names_the_first_layer_and_step(build: Callable[..., Any]) -> None:
    table = {"weight_norm": lambda t: [2.0, 2.0 if t < 6 else np.inf, 2.0 if t < 6 else np.inf]}
    found = NonFinite().check(*build(steps=10, table=table, scalars={"output_max": lambda t: 1.0 if t < 6 else np.inf}))
    assert found is not None
    assert found.layers == ("fc2",)
    assert found.evidence["first_step"] == 6


def test_says_it_in_good_english(build: Callable[..., Any]) -> None:
    of_loss = NonFinite().check(*build(losses=breaks(0.5)))
    of_weights = NonFinite().check(*build(table={"weight_norm": lambda t: [2.0, breaks(2.0)(t), 2.0]}))
    assert of_loss is not None
    assert of_loss.message.startswith("Loss is not finite")
    assert of_weights is not None
    assert of_weights.message.startswith("Weights of layer fc2 are not finite")
