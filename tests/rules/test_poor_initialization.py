from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.rules.poor_initialization import PoorInitialization


def starting(*starts: str, units: int = 16) -> list[LayerInfo]:
    """Layers of a plain network by the form of their initial weights; the last one makes the output."""
    last = len(starts) - 1
    return [LayerInfo(f"fc{i}", "dense", "relu", units, 99, hidden=i < last, start=s) for i, s in enumerate(starts)]


SAME = {"output_spread": 0.0}
SIGMOIDS = (
    LayerInfo("fc1", "dense", "sigmoid", 4, 100),
    LayerInfo("fc2", "dense", "sigmoid", 4, 20),
    LayerInfo("out", "dense", "linear", 1, 17, hidden=False),
)
FADES = {"activation_spread": [1.0, 1e-4, 1e-5]}
STUCK: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({"table": {"weight_norm": 0.0}, "scalars": SAME, "steps": 1}, "error", id="all zero"),
        pytest.param({"table": {"weight_norm": 0.0}, "steps": 1}, None, id="all zero, but with a path around"),
        pytest.param(
            {
                "layers": starting("", "zero", ""),
                "table": {"activation_mean_abs": [0.5, 0, 0], "activation_spread": [0.5, 0, 0]},
                "scalars": SAME,
                "steps": 1,
            },
            "error",
            id="zero layer that ReLU blocks",
        ),
        pytest.param(
            {"layers": starting("", "zero", ""), "table": {"activation_spread": [0.5, 0, 0.5]}, "steps": 1},
            None,
            id="zero end of a branch",
        ),
        pytest.param(
            {
                "table": {"activation_spread": np.inf, "activation_mean_abs": np.inf},
                "scalars": {"output_spread": np.inf, "output_min": np.inf, "output_max": np.inf},
                "steps": 1,
            },
            None,
            id="not finite: nonfinite reports it",
        ),
        pytest.param({"layers": starting("constant", "constant", "constant"), "steps": 1}, "error", id="constant"),
        pytest.param(
            {"layers": starting("", "equal_units", "zero"), "steps": 1}, "error", id="equal units, zero output"
        ),
        pytest.param({"layers": starting("constant", "", ""), "steps": 1}, "warning", id="constant first layer"),
        pytest.param({"layers": starting("constant", "", "")} | STUCK, "error", id="constant first layer, stuck"),
        pytest.param({"layers": starting("constant", "zero", ""), "steps": 1}, "error", id="constant, then zero"),
        pytest.param({"layers": starting("", "constant", ""), "steps": 1}, "warning", id="constant, next differs"),
        pytest.param({"layers": starting("", "", "constant"), "steps": 1}, None, id="constant output layer"),
        pytest.param({"layers": starting("equal_inputs", "equal_inputs", ""), "steps": 1}, None, id="equal inputs"),
        pytest.param({"layers": starting("constant", "constant", "constant")}, None, id="constant, but learns"),
        pytest.param(
            {"table": {"activation_spread": [1e-8, 0.1, 0.1]}, "steps": 1},
            "error",
            id="first layer the same except for rounding",
        ),
        pytest.param({"table": {"weight_norm": [2.0, 2.0, 0.0]}} | STUCK, None, id="zero output layer"),
        pytest.param({"table": {"activation_spread": [0.5, 1e-6, 1e-6]}, "steps": 1}, "warning", id="fades"),
        pytest.param({"table": {"activation_spread": [0.5, 1e-6, 1e-6]}} | STUCK, "error", id="fades, stuck"),
        pytest.param({"table": {"activation_spread": [0.5, 1e-6, 1e-6]}}, None, id="fades, but learns"),
        pytest.param({"table": {"activation_spread": [0.5, 1e4, 1e4]}, "steps": 1}, "warning", id="grows"),
        pytest.param({"table": {"activation_spread": [500.0, 800.0, 1.0]}, "steps": 1}, "warning", id="large"),
        pytest.param({"layers": SIGMOIDS, "table": FADES, "steps": 1}, "warning", id="sigmoids, before a step"),
        pytest.param({"layers": SIGMOIDS, "table": FADES} | STUCK, None, id="sigmoids: the activation is the cause"),
        pytest.param({"table": FADES} | STUCK, "error", id="the same with ReLU"),
        pytest.param(
            {"table": {"activation_spread": [0.5, 0.0, 0.0], "activation_mean_abs": [0.5, 0.0, 0.3]}} | STUCK,
            None,
            id="dead from the start: dying_relu reports it",
        ),
        pytest.param({"table": {"weight_norm": [2.0, 80.0, 1.0]}} | STUCK, "error", id="far larger than usual"),
        pytest.param({"table": {"weight_norm": [2.0, 80.0, 1.0]}, "steps": 1}, "warning", id="the same, at the start"),
        pytest.param({"table": {"weight_norm": [2.0, 2.0, 40.0]}} | STUCK, None, id="far larger, output layer"),
        pytest.param(
            {"layers": starting("", ""), "table": {"weight_norm": [80.0, 2.0], "dead_units": np.nan}} | STUCK,
            "error",
            id="far larger, with one hidden layer",
        ),
        pytest.param({"table": {"weight_norm": [2.0, 30.0, 1.0]}} | STUCK, None, id="somewhat larger than usual"),
        pytest.param({"table": {"weight_norm": [2.0, 80.0, 1.0]}}, None, id="far larger, and it learns"),
        pytest.param(
            {"table": {"weight_norm": [2.0, 80.0, 1.0]}, "epochs": {"val_accuracy": lambda e: 0.8}},
            "warning",
            id="far larger, and memorizes",
        ),
        pytest.param({"table": {"activation_spread": np.nan}} | STUCK, None, id="not measured"),
        pytest.param(STUCK, None, id="usual spread, stuck"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = PoorInitialization().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_frozen_filters_may_be_equal(build: Callable[..., Any]) -> None:
    first, *rest = starting("equal_units", "", "")
    layers = [replace(first, frozen=True), *rest]
    assert PoorInitialization().check(*build(layers=layers, steps=1)) is None


def test_equal_units_are_named_with_their_layers(build: Callable[..., Any]) -> None:
    finding = PoorInitialization().check(*build(layers=starting("constant", "constant", ""), steps=1))
    assert finding is not None
    assert finding.layers == ("fc0", "fc1")
    assert (finding.evidence["equal_layers"], finding.evidence["staying_equal"]) == (2, 1)


@pytest.mark.parametrize(
    ("weights", "gradients", "expected"),
    [
        pytest.param([1.0, 0, 0], [np.nan, 0, 0], "error", id="both factors of adapters are zero"),
        pytest.param([1.0, 0, 0], [np.nan, 0, 0.1], None, id="one of them gets a gradient"),
        pytest.param([1.0, 0, 0.3], [np.nan, 0, 0], None, id="one of them is random"),
    ],
)
def test_factors_of_zero_beside_frozen_weights(
    build: Callable[..., Any], weights: list[float], gradients: list[float], expected: str | None
) -> None:
    first, *rest = starting("", "", "")
    layers = [replace(first, parameters=0, frozen=True), *rest]
    table = {"weight_norm": weights, "grad_norm": gradients}
    finding = PoorInitialization().check(*build(**STUCK, layers=layers, table=table))
    assert (finding.severity if finding else None) == expected
    assert finding is None or finding.layers == ("fc1", "fc2")
