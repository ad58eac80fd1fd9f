from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import OptimizerInfo
from autotrainer.rules.representation_collapse import RepresentationCollapse

STUCK: dict[str, Any] = {"losses": lambda t: 0.7}
AT_CHANCE = {"accuracy": 0.5}
NO_TARGETS: dict[str, Any] = {"targets": "real", "loss": "custom", "losses": lambda t: 0.2 if t > 60 else 1.0}
UNKNOWN = {"accuracy": np.nan, "target_spread": np.nan}
CONSTANT = {"activation_spread": [0.5, 1e-6, 1e-6]}


def falls(first: float, last: float) -> Callable[[int], float]:
    return lambda t: first if t < 60 else last


def spread(first: float, last: float) -> dict[str, Any]:
    return {"table": {"activation_spread": lambda t: [0.5, first if t < 60 else last, 0.5]}}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({"table": CONSTANT, "scalars": AT_CHANCE} | STUCK, "error", id="same features and stuck"),
        pytest.param(
            {"table": CONSTANT, "scalars": AT_CHANCE, "planned_epochs": None} | STUCK, "warning", id="no schedule"
        ),
        pytest.param(
            {"scalars": AT_CHANCE | {"feature_rank": falls(0.5, 0.05)}} | STUCK, "error", id="rank fell and stuck"
        ),
        pytest.param(spread(0.5, 1e-6) | {"scalars": UNKNOWN} | NO_TARGETS, "error", id="no labels: features collapse"),
        pytest.param(
            {"scalars": UNKNOWN | {"output_spread": falls(1.0, 1e-6)}} | NO_TARGETS,
            "error",
            id="no labels: outputs collapse",
        ),
        pytest.param(
            {"scalars": UNKNOWN | {"output_spread": falls(1.0, 1e-6), "target_spread": 0.0}} | NO_TARGETS,
            "error",
            id="no labels, zeros in their place: outputs collapse",
        ),
        pytest.param(
            {"scalars": UNKNOWN | {"output_spread": falls(1.0, 5e-3)}} | NO_TARGETS,
            "warning",
            id="no labels: outputs shrink to a point",
        ),
        pytest.param(
            spread(0.5, 1e-6) | {"scalars": UNKNOWN} | NO_TARGETS | {"losses": lambda t: 2 - t / 400, "steps": 300},
            "warning",
            id="no labels: features collapse while the loss falls",
        ),
        pytest.param(
            {"scalars": UNKNOWN | {"output_spread": falls(0.02, 5e-3), "output_max": 100.0}} | NO_TARGETS,
            None,
            id="no labels: values that lie close together",
        ),
        pytest.param(
            {"scalars": UNKNOWN | {"output_spread": falls(300.0, 1.0)}} | NO_TARGETS,
            None,
            id="no labels: outputs that were too large at the start",
        ),
        pytest.param(
            spread(1e-6, 1e-6) | {"scalars": UNKNOWN} | NO_TARGETS, None, id="no labels: the same from the start"
        ),
        pytest.param(
            spread(0.5, 1e-6) | {"scalars": UNKNOWN} | NO_TARGETS | {"optimizer": OptimizerInfo("adam", several=True)},
            None,
            id="adversarial training",
        ),
        pytest.param(
            {"scalars": UNKNOWN | {"feature_rank": falls(0.5, 0.02)}} | NO_TARGETS, None, id="low rank may be right"
        ),
        pytest.param({"scalars": {"feature_rank": falls(0.5, 0.02)}}, None, id="neural collapse of a good classifier"),
        pytest.param({"table": CONSTANT}, None, id="same features but learns"),
        pytest.param({"scalars": AT_CHANCE | {"feature_rank": 0.05}} | STUCK, None, id="low rank from the start"),
        pytest.param({"scalars": AT_CHANCE | {"feature_rank": 0.6}} | STUCK, None, id="stuck with rich features"),
        pytest.param(
            {"table": CONSTANT, "scalars": AT_CHANCE | {"input_std": 0.0}} | STUCK, None, id="all inputs the same"
        ),
        pytest.param(
            {"table": CONSTANT, "scalars": AT_CHANCE | {"target_spread": 0.0}} | STUCK, None, id="all targets the same"
        ),
        pytest.param({"table": CONSTANT, "scalars": AT_CHANCE, "steps": 30} | STUCK, None, id="young"),
        pytest.param({"table": {"activation_spread": np.nan}, "scalars": AT_CHANCE} | STUCK, None, id="not measured"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = RepresentationCollapse().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_names_the_last_hidden_layer(build: Callable[..., Any]) -> None:
    finding = RepresentationCollapse().check(*build(table=CONSTANT, scalars=AT_CHANCE, **STUCK))
    assert finding is not None
    assert finding.layers == ("fc2",)
    assert finding.evidence["spread"] == pytest.approx(2e-6)


def test_independent_of_feature_scale(build: Callable[..., Any]) -> None:
    large = {"activation_spread": [0.5, 1e-2, 1e-2], "activation_mean_abs": 1e4}
    small = {"activation_spread": [0.5, 1e-3, 1e-3], "activation_mean_abs": 1e-3}
    findings = [RepresentationCollapse().check(*build(table=t, scalars=AT_CHANCE, **STUCK)) for t in (large, small)]
    assert [f is not None for f in findings] == [True, False]


def test_thresholds_are_monotone(build: Callable[..., Any]) -> None:
    run = build(scalars=AT_CHANCE | {"feature_rank": falls(0.5, 0.08)}, **STUCK)
    reported = [RepresentationCollapse(rank=r).check(*run) is not None for r in (0.02, 0.09, 0.2)]
    assert reported == [False, True, True]
