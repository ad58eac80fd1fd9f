from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.findings import Severity
from autotrainer.records.signals import LayerInfo
from autotrainer.rules.ignored_positions import IgnoredPositions

LAYERS = (
    LayerInfo("tokens", "embedding", "linear", 16, 800),
    LayerInfo("wpe", "embedding", "linear", 16, 320),
    LayerInfo("out", "dense", "linear", 1, 17, hidden=False),
)
STUCK: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}
HALF_WAY: dict[str, Any] = {"losses": lambda t: 0.5, "scalars": {"accuracy": 0.7}}
FAIR: dict[str, Any] = {"losses": lambda t: 0.5, "scalars": {"accuracy": 0.85}}


def positions(
    norm: Any = np.nan, without: Any = np.nan, rising: Any = np.nan, equal: Any = np.nan, **layer: Any
) -> dict[str, Any]:
    columns = {"position_grad_norm": norm, "lookups_without_gradient": without}
    columns |= {"rising_indices": rising, "equal_indices": equal}

    def at(value: Any) -> Any:
        return (lambda t: [np.nan, value(t), np.nan]) if callable(value) else [np.nan, value, np.nan]

    layers = (LAYERS[0], replace(LAYERS[1], **layer), LAYERS[2])
    return {"layers": layers, "table": {name: at(value) for name, value in columns.items()} | {"dead_units": np.nan}}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(positions(0.0) | STUCK, "error", id="no gradient, and stuck"),
        pytest.param(positions(0.0) | HALF_WAY, "error", id="no gradient, and half way at the end"),
        pytest.param(positions(0.0), "warning", id="no gradient in a model that learns"),
        pytest.param(positions(0.0) | STUCK | {"planned_epochs": None}, "warning", id="no schedule"),
        pytest.param(positions(0.0) | {"steps": 4}, None, id="too few samples"),
        pytest.param(positions(lambda t: 0.0 if t else 0.1), None, id="a gradient in the first step"),
        pytest.param(positions(0.1, 0.0, 1.0, 0.0), None, id="a gradient"),
        pytest.param(positions(np.nan, 1.0, 1.0, 0.0, name="order"), "warning", id="indices that count up, any name"),
        pytest.param(positions(np.nan, 1.0, 1.0, 0.0) | FAIR, "error", id="looked up in vain, and not learned well"),
        pytest.param(positions(0.0) | FAIR, "warning", id="not looked up, and not learned well"),
        pytest.param(
            positions(0.0) | FAIR | {"asked": {"order_effect": 0.0, "order_noise": 1e-4}}, "error", id="probed"
        ),
        pytest.param(positions(np.nan, 1.0, 0.1, 0.0, name="words"), None, id="another embedding without gradient"),
        pytest.param(positions(0.1, 0.0, 0.0, 1.0), "warning", id="one index for all positions"),
        pytest.param(positions(np.nan, 0.0, 0.0, 1.0, name="segments"), None, id="one segment"),
        pytest.param(positions(0.0, parameters=0, frozen=True), None, id="frozen"),
        pytest.param(positions(0.0, unowned=320), None, id="not in the optimizer"),
        pytest.param(positions(0.0) | {"scalars": {"grad_norm": 0.0}}, None, id="no gradient anywhere"),
        pytest.param({}, None, id="no embedding"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = IgnoredPositions().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_message_names_the_layer(build: Callable[..., Any]) -> None:
    finding = IgnoredPositions().check(*build(**positions(0.0)))
    assert finding is not None
    assert finding.layers == ("wpe",)
    assert "The position embeddings of wpe receive no gradient in any of the" in finding.message


def _order(effect: float, attention: float = 1, **other: float) -> dict[str, float]:
    return {"order_effect": effect, "order_noise": 1e-4, "attention": attention, "predicts_next": 0, **other}


CASES = [
    pytest.param(_order(0.3), None, id="order matters"),
    pytest.param(_order(0.0), Severity.WARNING, id="attention"),
    pytest.param(_order(0.0, order_conflicts=0.3), Severity.ERROR, id="targets out of reach"),
    pytest.param(_order(0.0, 0, order_conflicts=0.3), Severity.ERROR, id="targets out of reach of a bag"),
    pytest.param(_order(0.0, 0, order_conflicts=0.0), Severity.INFO, id="bag of words"),
    pytest.param(_order(0.0, order_in_inputs=-20), Severity.WARNING, id="series"),
    pytest.param(_order(0.0, order_in_inputs=0.3), Severity.INFO, id="set"),
    pytest.param(_order(0.0, predicts_next=1), Severity.WARNING, id="language model"),
    pytest.param({**_order(0.0), "order_noise": 1.2}, None, id="all is rounding"),
    pytest.param({}, None, id="not probed"),
]


@pytest.mark.parametrize(("facts", "severity"), CASES)
def test_effect_of_order(build: Callable[..., Any], facts: dict[str, float], severity: Severity | None) -> None:
    finding = IgnoredPositions().check(*build(asked=facts))
    assert (None if finding is None else finding.severity) == severity
