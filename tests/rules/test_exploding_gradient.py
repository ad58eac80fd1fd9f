from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.rules.exploding_gradient import ExplodingGradient


def grows(t: int) -> float:
    return float(4.0 ** min(t, 100))


REAL: dict[str, Any] = {"targets": "real", "loss": "mse"}


def thrown(error: float, start: float = 2.0) -> dict[str, Any]:
    """A training whose first step threw the weights to 30 times their size, and whose squared error then stays."""
    table = {
        "weight_norm": lambda t: start if t < 2 else 30 * start,
        "update_ratio": lambda t: 40.0 if t < 2 else 1e-3,
    }
    return REAL | {"losses": lambda t: error, "scalars": {"squared_error": error}, "table": table}


def dead_end(step: float, growth: float) -> dict[str, Any]:
    """A training at chance level whose gradients are all zero from the second step on."""
    table = {
        "weight_norm": lambda t: 2.0 if t < 2 else 2.0 * growth,
        "update_ratio": lambda t: step if t == 1 else 0.0,
        "grad_norm": lambda t: 1.0 if t < 2 else 0.0,
    }
    return {"steps": 20, "losses": lambda t: 40.0, "scalars": {"accuracy": 0.5}, "table": table}


OWN: dict[str, Any] = {
    "loss": "custom",
    "scalars": {"accuracy": np.nan, "grad_norm": lambda t: 0.1 * (1 + t)},
    "table": {"grad_norm": lambda t: 0.05 * (1 + t)},
}


def layers(**changes: Any) -> tuple[LayerInfo, ...]:
    """Three layers of 32 units, changed alike."""
    return tuple(replace(LayerInfo(f"fc{i}", "dense", "relu", 32, 1056), **changes) for i in range(3))


GROWN: dict[str, Any] = thrown(np.nan, start=0.02) | {"loss": "custom"}


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
        pytest.param(dead_end(4.0, 3.0), "error", id="one large step into a region without gradients"),
        pytest.param(dead_end(0.01, 1.0), None, id="no gradients, but never a large step"),
        pytest.param(dead_end(4.0, 3.0) | {"scalars": {"accuracy": 1.0}}, None, id="no gradients at a perfect fit"),
        pytest.param(thrown(0.6), "error", id="thrown far away, and settled far from good"),
        pytest.param(thrown(0.6) | {"steps": 100}, "warning", id="thrown far away, young"),
        pytest.param(thrown(0.3), "warning", id="thrown far away, fair"),
        pytest.param(thrown(0.1), None, id="thrown far away, yet good"),
        pytest.param(thrown(0.6, start=0.02), "warning", id="grown from tiny weights to usual ones"),
        pytest.param(GROWN | {"layers": layers()}, "warning", id="grown from tiny weights, outcome unknown"),
        pytest.param(GROWN | {"layers": layers(parameters=1)}, None, id="scalars that pass zero"),
        pytest.param(GROWN | {"layers": layers(start="zero")}, None, id="grown from zero"),
        pytest.param({"scalars": {"grad_norm": lambda t: 0.01 * (1 + t)}}, None, id="gradients grow, loss falls"),
        pytest.param({"table": {"grad_norm": [100.0, 1.0, 0.5]}}, None, id="large ratio, but learns"),
        pytest.param({"table": {"grad_norm": np.nan}, "scalars": {"grad_norm": np.nan}}, None, id="not measured"),
        pytest.param(OWN | {"losses": lambda t: 0.05 * (1 + t)}, "warning", id="a custom loss that grows"),
        pytest.param(OWN | {"losses": lambda t: 1e-3 * (1 + t) ** 3}, "error", id="the same, without bound"),
        pytest.param(OWN | {"losses": lambda t: 1.0 - 0.1 * t}, None, id="a likelihood that gets better"),
        pytest.param({"steps": 1}, None, id="one step"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = ExplodingGradient().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_layer_with_largest_growth_comes_first(build: Callable[..., Any]) -> None:
    table = {"grad_norm": lambda t: [0.3, 0.3 * grows(t), 0.3 * 2.0**t]}
    case = REAL | {"steps": 12, "losses": grows, "scalars": {"grad_norm": grows, "squared_error": grows}}
    finding = ExplodingGradient().check(*build(table=table, **case))
    assert finding is not None
    assert finding.layers[0] == "fc2"


def test_noise_of_single_samples_is_not_an_explosion(build: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    noisy = rng.lognormal(0, 1, 2000)
    scalars = {"grad_norm": lambda t: noisy[t], "batch_size": 1, "accuracy": 0.9}
    assert ExplodingGradient().check(*build(losses=lambda t: noisy[t], scalars=scalars)) is None


def test_growth_that_has_ended_is_not_reported(build: Callable[..., Any]) -> None:
    def bump(t: int) -> float:
        return 100.0 if 100 < t < 200 else 1.0

    assert ExplodingGradient().check(*build(losses=bump, scalars={"grad_norm": bump, "accuracy": 0.8})) is None


def test_thresholds_are_monotone(build: Callable[..., Any]) -> None:
    run = build(**REAL, steps=12, losses=grows, scalars={"grad_norm": grows, "squared_error": grows})
    reported = [ExplodingGradient(growth=g, loss_growth=g).check(*run) is not None for g in (1e12, 1e3, 10.0)]
    assert reported == [False, True, True]


def test_nonfinite_weights_are_left_to_nonfinite(build: Callable[..., Any]) -> None:
    table = {"weight_norm": lambda t: 2.0 if t < 2 else np.inf, "update_ratio": lambda t: 0.1 if t < 2 else np.inf}
    assert ExplodingGradient().check(*build(**REAL, losses=lambda t: 5.0, table=table)) is None
