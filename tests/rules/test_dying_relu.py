from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.dying_relu import DyingReLU

STUCK: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(
            {"table": {"dead_units": [0.2, 1.0, np.nan], "grad_norm": [0.0, 0.0, 0.1]}, "steps": 8} | STUCK,
            "error",
            id="dead layer that cuts off, at once",
        ),
        pytest.param({"table": {"dead_units": [0.2, 0.8, np.nan]}} | STUCK, "error", id="mostly dead and stuck"),
        pytest.param(
            {"table": {"dead_units": [0.2, 0.8, np.nan]}, "planned_epochs": None} | STUCK, "warning", id="no schedule"
        ),
        pytest.param({"table": {"dead_units": [0.2, 0.95, np.nan]}, "steps": 20} | STUCK, "warning", id="young"),
        pytest.param({"table": {"dead_units": [0.2, 0.95, np.nan]}}, None, id="mostly dead but learns"),
        pytest.param({"table": {"dead_units": [0.53, 0.38, np.nan]}} | STUCK, None, id="usual share"),
        pytest.param({"table": {"dead_units": [0.2, 0.1, 1.0]}} | STUCK, None, id="only the output"),
        pytest.param({"table": {"dead_units": [0.2, 1.0, np.nan]}, "steps": 4} | STUCK, None, id="too few batches"),
        pytest.param({"table": {"dead_units": np.nan}} | STUCK, None, id="no such activation"),
        pytest.param({"table": {"grad_zero_fraction": 0.95}} | STUCK, None, id="sparse gradients"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = DyingReLU().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_layer_with_most_dead_units_comes_first(build: Callable[..., Any]) -> None:
    finding = DyingReLU().check(*build(table={"dead_units": [0.75, 0.99, np.nan]}, **STUCK))
    assert finding is not None
    assert finding.layers == ("fc2", "fc1")
    assert finding.evidence["dead_units"] == pytest.approx(0.99)


def test_recovery_ends_the_finding(build: Callable[..., Any]) -> None:
    table = {"dead_units": lambda t: [0.9 if t < 400 else 0.3, 0.1, np.nan]}
    assert DyingReLU().check(*build(table=table, **STUCK)) is None


def test_threshold_of_the_paper_is_monotone(build: Callable[..., Any]) -> None:
    run = build(table={"dead_units": [0.2, 0.8, np.nan]}, **STUCK)
    assert [DyingReLU(dead_units=g).check(*run) is not None for g in (0.9, 0.75, 0.5)] == [False, True, True]
