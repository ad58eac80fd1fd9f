from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.loss_scale_collapse import LossScaleCollapse

STUCK: dict[str, Any] = {"losses": lambda t: 0.7}
DIVERGES: dict[str, Any] = {"losses": lambda t: 0.7 * 1.02**t, "planned_epochs": None}


def scaled(scale: Any, **scalars: Any) -> dict[str, Any]:
    return {"scalars": {"loss_scale": scale} | scalars}


def finds_its_scale(t: int) -> float:
    return 2.0 ** (16 - min(t, 9))


def grows(t: int) -> float:
    return float(2.0 ** (12 + t // 100))


def overshoots_rarely(t: int) -> float:
    return 2.0**15 if (t // 64) % 2 else 2.0**16


def falls(t: int) -> float:
    return float(2.0 ** (40 - t / 16))


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(scaled(lambda t: 2.0 ** (16 - t / 10)), "error", id="falls to nothing"),
        pytest.param(scaled(lambda t: 2.0 ** (16 - t / 35)) | DIVERGES, "error", id="below 1 and diverging"),
        pytest.param(scaled(lambda t: 2.0 ** (16 - t / 35), accuracy=0.5) | STUCK, "error", id="below 1 and stuck"),
        pytest.param(
            scaled(lambda t: 2.0 ** (16 - t / 35), accuracy=0.5) | STUCK | {"planned_epochs": None},
            "warning",
            id="below 1 and stuck, no schedule",
        ),
        pytest.param(scaled(lambda t: 2.0 ** (16 - t / 35)), "warning", id="below 1 but learns"),
        pytest.param(scaled(falls), "warning", id="six steps in a hundred are skipped"),
        pytest.param(scaled(2.0**16) | {"asked": {"loss_scale": 1e-6}}, "error", id="no further step completes"),
        pytest.param(
            scaled(2.0**16) | {"asked": {"loss_scale": 0.0}}, "error", id="no further step completes for long"
        ),
        pytest.param(scaled(2.0**16) | {"asked": {"loss_scale": 2.0**15}}, None, id="the last step was skipped"),
        pytest.param(scaled(finds_its_scale), None, id="finds its scale in the beginning"),
        pytest.param(scaled(grows), None, id="grows"),
        pytest.param(scaled(overshoots_rarely), None, id="overshoots now and then"),
        pytest.param(scaled(0.5), "warning", id="below 1 all the time"),
        pytest.param(scaled(1.0), None, id="no scaling"),
        pytest.param(scaled(2.0**16, accuracy=0.5) | STUCK, None, id="stuck for another cause"),
        pytest.param(scaled(np.nan) | DIVERGES, None, id="scale unknown"),
        pytest.param(scaled(np.inf) | DIVERGES, None, id="the scale is not finite"),
        pytest.param(scaled(finds_its_scale) | {"steps": 12}, None, id="just begun"),
    ],
)
def test_loss_scale(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = LossScaleCollapse().check(*build(**{"planned_epochs": 30} | case))
    assert (finding and str(finding.severity)) == expected


def test_a_training_without_a_single_step_is_judged_by_the_scale_alone(build: Callable[..., Any]) -> None:
    finding = LossScaleCollapse().check(*build(steps=0, asked={"loss_scale": 1e-8}))
    assert finding is not None
    assert str(finding.severity) == "error"
    assert "1e-08" in finding.message
    assert LossScaleCollapse().check(*build(steps=0, asked={"loss_scale": 64.0})) is None


def test_thresholds_can_be_set(build: Callable[..., Any]) -> None:
    run = build(**scaled(falls))
    assert LossScaleCollapse(skipped=0.1).check(*run) is None
    finding = LossScaleCollapse(lost=10.0).check(*run)
    assert finding is not None
    assert str(finding.severity) == "error"
