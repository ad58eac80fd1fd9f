from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.monitoring.engine import Engine
from autotrainer.records.findings import Severity
from autotrainer.records.signals import LayerInfo
from autotrainer.rules.abnormal_data import AbnormalData
from autotrainer.rules.saturated_activation import SaturatedActivation
from autotrainer.rules.vanishing_gradient import VanishingGradient

LAYERS = (
    LayerInfo("fc1", "dense", "tanh", 16, 100),
    LayerInfo("fc2", "dense", "tanh", 16, 272),
    LayerInfo("out", "dense", "sigmoid", 1, 17, hidden=False),
)
STUCK: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}
HALF_WAY: dict[str, Any] = {"losses": lambda t: 0.5, "scalars": {"accuracy": 0.7}}


def table(*saturated: float) -> dict[str, Any]:
    return {"layers": LAYERS, "table": {"saturated": saturated, "dead_units": np.nan}}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(table(0.95, 0.1, 0.0) | STUCK, "error", id="first layer and stuck"),
        pytest.param(table(0.1, 0.6, 0.0) | STUCK, "error", id="second layer and stuck"),
        pytest.param(table(0.95, 0.1, 0.0) | STUCK | {"planned_epochs": None}, "warning", id="no schedule"),
        pytest.param(table(0.95, 0.1, 0.0) | STUCK | {"steps": 12}, "warning", id="young"),
        pytest.param(
            table(0.95, 0.1, 0.0) | {"targets": "real", "loss": "custom", "scalars": {"accuracy": np.nan}},
            "warning",
            id="outcome unknown",
        ),
        pytest.param(table(0.95, 0.1, 0.0) | HALF_WAY, "error", id="ends half way"),
        pytest.param(table(0.7, 0.1, 0.0) | HALF_WAY, None, id="some, and ends half way"),
        pytest.param(table(0.95, 0.9, 0.0), None, id="saturated but learns"),
        pytest.param(table(0.4, 0.3, 0.0) | STUCK, None, id="stuck with a usual share"),
        pytest.param(table(0.6, 0.1, 0.0) | STUCK | {"steps": 12}, None, id="some and young"),
        pytest.param(table(0.0, 0.0, 0.99) | STUCK, None, id="only the output"),
        pytest.param(table(0.95, 0.1, 0.0) | STUCK | {"steps": 1}, "warning", id="at the start"),
        pytest.param(table(np.nan, np.nan, np.nan) | STUCK, None, id="no bounded activation"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = SaturatedActivation().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_names_the_saturated_layers_in_forward_order(build: Callable[..., Any]) -> None:
    finding = SaturatedActivation().check(*build(**table(0.6, 0.99, 0.0), **STUCK))
    assert finding is not None
    assert finding.layers == ("fc1", "fc2")
    assert finding.evidence == {"saturated": pytest.approx(0.99), "affected_layers": 2, "bounded_layers": 2}
    assert "99% of the outputs of layer fc2 (tanh)" in finding.message


def test_recovery_ends_the_finding(build: Callable[..., Any]) -> None:
    case = table() | {"table": {"saturated": lambda t: [0.95 if t < 400 else 0.2, 0.1, 0.0]}}
    assert SaturatedActivation().check(*build(**case, **STUCK)) is None


def test_threshold_is_monotone(build: Callable[..., Any]) -> None:
    run = build(**table(0.6, 0.1, 0.0), **STUCK)
    assert [SaturatedActivation(saturated=s).check(*run) is not None for s in (0.9, 0.55, 0.2)] == [False, True, True]


def test_is_ordered_between_cause_and_consequence(build: Callable[..., Any]) -> None:
    case = table() | {"table": {"saturated": [0.95, 0.1, 0.0], "grad_norm": [1e-9, 1e-5, 1e-2]}}
    run = build(losses=lambda t: 0.7, scalars={"accuracy": 0.5, "input_std": 90.0, "input_max_abs": 255.0}, **case)
    findings = Engine([VanishingGradient(), SaturatedActivation(), AbnormalData()]).evaluate(*run)
    assert [(f.problem, f.caused_by) for f in findings] == [
        ("abnormal_data", None),
        ("saturated_activation", "abnormal_data"),
        ("vanishing_gradient", "saturated_activation"),
    ]
    assert all(f.severity is Severity.ERROR for f in findings)
