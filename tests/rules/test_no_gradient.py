from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.rules.no_gradient import NoGradient

CHANCE: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}
CUT_OFF = {"grad_norm": [0.0, 0.3, 0.3]}
DIED = {"grad_norm": lambda t: [0.3 if t < 50 else 0.0, 0.3, 0.3]}
NOTHING = {"grad_norm": 0.0}
UNKNOWN: dict[str, Any] = {
    "targets": "real", "loss": "custom", "losses": lambda t: 0.5, "scalars": {"accuracy": np.nan}
}  # fmt: skip
LAYERS = tuple(LayerInfo(name, "dense", "relu", 16, 100) for name in ("one", "two", "three"))


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(CHANCE | {"table": CUT_OFF}, "error", id="cut off, at chance"),
        pytest.param(CHANCE | {"table": {"grad_norm": [np.nan, 0.3, 0.3]}}, "error", id="no gradient at all"),
        pytest.param(CHANCE | {"table": CUT_OFF, "planned_epochs": None}, "warning", id="no schedule"),
        pytest.param(CHANCE | {"table": CUT_OFF, "steps": 9}, None, id="too few samples"),
        pytest.param({"table": CUT_OFF}, "info", id="cut off, but learns: a head that rests"),
        pytest.param({"losses": lambda t: 0.5, "scalars": {"accuracy": 0.7}, "table": CUT_OFF}, "warning", id="fair"),
        pytest.param(CHANCE | {"table": DIED}, "error", id="died, at chance"),
        pytest.param({"table": DIED}, None, id="died, but learns"),
        pytest.param(CHANCE | {"table": NOTHING, "steps": 12}, "error", id="no layer has a gradient"),
        pytest.param(
            {"table": NOTHING, "targets": "real", "loss": "custom", "scalars": {"accuracy": np.nan}},
            "warning",
            id="no layer has a gradient, no measure of skill",
        ),
        pytest.param(UNKNOWN | {"table": {"grad_norm": [0.0, 0.0, 0.3]}}, "error", id="most layers, skill unknown"),
        pytest.param(UNKNOWN | {"table": {"grad_norm": [np.nan, np.nan, 0.3]}}, "warning", id="left out of the graph"),
        pytest.param(UNKNOWN | {"table": CUT_OFF}, "warning", id="one layer, skill unknown"),
        pytest.param({"table": NOTHING, "scalars": {"accuracy": 1.0}}, None, id="at a perfect fit"),
        pytest.param(
            {
                "table": NOTHING,
                "targets": "real",
                "loss": "custom",
                "losses": lambda t: 0.0 if t > 100 else 1.0,
                "scalars": {"accuracy": np.nan},
            },
            None,
            id="a margin that all samples keep",
        ),
        pytest.param(CHANCE | {"table": {"grad_norm": [1e-12, 0.3, 0.3]}}, None, id="small is not none"),
        pytest.param(CHANCE | {"table": {"grad_norm": np.nan}}, None, id="not measured"),
        pytest.param(
            CHANCE | {"table": {"grad_norm": np.nan, "update_ratio": 0.0}}, "error", id="none known, no weight changes"
        ),
        pytest.param(
            CHANCE | {"table": {"grad_norm": [np.nan, 0.3, 0.3], "weight_norm": [np.nan, 2.0, 2.0]}},
            None,
            id="parameters that no optimizer owns",
        ),
        pytest.param(
            CHANCE
            | {"table": CUT_OFF, "layers": (LayerInfo("mean", "dense", "relu", 16, 100, unowned=100), *LAYERS[1:])},
            None,
            id="a moving average of weights: no optimizer owns it",
        ),
        pytest.param({}, None, id="healthy"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = NoGradient().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_frozen_layers_are_ignored(build: Callable[..., Any]) -> None:
    layers = (
        LayerInfo("backbone", "dense", "relu", 16, 100, frozen=True),
        LayerInfo("pool", "pool"),
        LayerInfo("head", "dense", "linear", 1, 17, hidden=False),
    )
    table = {"grad_norm": [np.nan, np.nan, 0.3]}
    assert NoGradient().check(*build(**CHANCE, layers=layers, table=table)) is None


def test_occasionally_idle_layers_are_not_reported(build: Callable[..., Any]) -> None:
    rests = {"grad_norm": lambda t: [0.3 * (t % 3 == 0), 0.3, 0.3]}
    assert NoGradient().check(*build(**CHANCE, table=rests)) is None


def test_names_the_layers(build: Callable[..., Any]) -> None:
    finding = NoGradient().check(*build(**CHANCE, table={"grad_norm": [0.0, np.nan, 0.3]}))
    assert finding is not None
    assert finding.layers == ("fc1", "fc2")
    assert finding.message.startswith("Layers fc1, fc2 receive no gradient in any of the")


def test_thresholds_are_monotone(build: Callable[..., Any]) -> None:
    run = build(**CHANCE, table=DIED, steps=80)
    reported = [NoGradient(samples=n).check(*run) is not None for n in (500, 30, 2)]
    assert reported == sorted(reported)
    assert reported[-1]
    assert not reported[0]


@pytest.mark.parametrize(
    ("derivative", "found"), [(0.0, True), (lambda t: 0.0 if t < 9 else 0.1, False), (np.nan, False)]
)
def test_second_derivatives_of_zero(build: Callable[..., Any], derivative: Any, found: bool) -> None:
    finding = NoGradient().check(*build(scalars={"second_derivative": derivative}, layers=LAYERS))
    assert (finding is not None and "with relu" in finding.message) == found
