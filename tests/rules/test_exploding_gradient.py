from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.exploding_gradient import ExplodingGradient


def grows(t: int) -> float:
    return float(4.0 ** min(t, 100))


REAL: dict[str, Any] = {"targets": "real", "loss": "mse"}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(
            REAL | {"steps": 12, "losses": grows, "scalars": {"grad_norm": grows, "squared_error": grows}},
            "error",
            id="loss and gradients grow",
        ),
        pytest.param(
            REAL
            | {
                "steps": 8,
                "losses": grows,
                "scalars": {"grad_norm": lambda t: grows(t) if t < 6 else np.inf, "squared_error": grows},
            },
            "error",
            id="not finite after growth",
        ),
        pytest.param(
            REAL
            | {
                "losses": lambda t: 5.0,
                "scalars": {"squared_error": 5.0},
                "table": {
                    "weight_norm": lambda t: [2.0, 2.0, 2.0 if t < 2 else 90.0],
                    "update_ratio": lambda t: 40.0 if t < 2 else 1e-3,
                },
            },
            "error",
            id="thrown far away, then flat",
        ),
        pytest.param({"scalars": {"grad_norm": lambda t: 0.01 * (1 + t)}}, None, id="gradients grow, loss falls"),
        pytest.param({"table": {"grad_norm": [100.0, 1.0, 0.5]}}, None, id="large ratio, but learns"),
        pytest.param({"table": {"grad_norm": np.nan}, "scalars": {"grad_norm": np.nan}}, None, id="not measured"),
        pytest.param({"steps": 1}, None, id="one step"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    found = ExplodingGradient().check(*build(**case))
    assert (found.severity if found else None) == expected


def test_names_first_the_layer_that_grew_most(build: Callable[..., Any]) -> None:
    table = {"grad_norm": lambda t: [0.3, 0.3 * grows(t), 0.3 * 2.0**t]}
    case = REAL | {"steps": 12, "losses": grows, "scalars": {"grad_norm": grows, "squared_error": grows}}
    found = ExplodingGradient().check(*build(table=table, **case))
    assert found is not None
    assert found.layers[0] == "fc2"


def test_noise_of_single_samples_is_no_explosion(build: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    noisy = rng.lognormal(0, 1, 2000)
    scalars = {"grad_norm": lambda t: noisy[t], "batch_size": 1, "accuracy": 0.9}
    assert ExplodingGradient().check(*build(losses=lambda t: noisy[t], scalars=scalars)) is None


def test_growth_that_is_over_is_no_finding(build: Callable[..., Any]) -> None:
    def bump(t: int) -> float:
        return 100.0 if 100 < t < 200 else 1.0

    assert ExplodingGradient().check(*build(losses=bump, scalars={"grad_norm": bump, "accuracy": 0.8})) is None


def test_thresholds_are_monotone(build: Callable[..., Any]) -> None:
    run = build(**REAL, steps=12, losses=grows, scalars={"grad_norm": grows, "squared_error": grows})
    found = [ExplodingGradient(growth=g, loss_growth=g).check(*run) is not None for g in (1e12, 1e3, 10.0)]
    assert found == [False, True, True]
