from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import OptimizerInfo
from autotrainer.rules.learning_rate_too_low import LearningRateTooLow

LOW = OptimizerInfo("sgd", 1e-5)


def noisy(t: int) -> float:
    return 0.5 + 0.1 * math.sin(t)


STILL: dict[str, Any] = {
    "losses": lambda t: 0.7 - 1e-6 * t,
    "scalars": {"accuracy": 0.52, "grad_norm": noisy},
    "table": {"update_ratio": 1e-5, "weight_norm": 5.0},
    "optimizer": LOW,
}
ON_ITS_WAY: dict[str, Any] = STILL | {
    "losses": lambda t: 0.69 - 4e-4 * t,
    "scalars": {"accuracy": 0.78, "grad_norm": noisy},
}


def clipped(t: int) -> float:
    return 1e-3 * (1 + 1e-4 * (t % 3))


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(STILL, "error", id="stands still"),
        pytest.param(
            STILL | {"scalars": {"accuracy": 0.52, "grad_norm": 0.0}}, None, id="no gradient: weight decay alone"
        ),
        pytest.param(STILL | {"steps": 120}, "error", id="a fifth of the schedule"),
        pytest.param(STILL | {"steps": 60}, None, id="too young"),
        pytest.param(
            STILL | {"table": {"update_ratio": 2e-4, "weight_norm": 5.0}},
            "warning",
            id="a tenth: wide layers need less",
        ),
        pytest.param(STILL | {"planned_epochs": None}, "warning", id="no schedule"),
        pytest.param(STILL | {"table": {"update_ratio": 1e-3, "weight_norm": 5.0}}, None, id="usual steps"),
        pytest.param(STILL | {"scalars": {"accuracy": 0.97}}, None, id="good from the start: fine-tuning"),
        pytest.param(ON_ITS_WAY, "error", id="still on its way at the end"),
        pytest.param(ON_ITS_WAY | {"losses": lambda t: 0.4}, "error", id="fair, but never moved"),
        pytest.param(
            ON_ITS_WAY | {"losses": lambda t: 0.4, "table": {"update_ratio": 1e-4, "weight_norm": 5.0}},
            None,
            id="settled with a fair score",
        ),
        pytest.param(STILL | {"optimizer": OptimizerInfo("adam", 1e-3)}, None, id="usual rate: other reasons"),
        pytest.param(
            STILL | {"optimizer": OptimizerInfo("sgd", 0.05, 0.9), "scalars": {"accuracy": 0.52, "grad_norm": clipped}},
            "error",
            id="clipped away",
        ),
        pytest.param(
            STILL | {"scalars": {"accuracy": 0.52, "grad_norm": noisy, "learning_rate": lambda t: 1e-8 * t}},
            None,
            id="warm-up from zero",
        ),
        pytest.param(STILL | {"table": {"update_ratio": 0.0}}, None, id="no steps at all"),
        pytest.param(STILL | {"table": {"update_ratio": np.nan}}, None, id="not measured"),
        pytest.param(STILL | {"per_epoch": 2, "steps": 50, "planned_epochs": 25}, None, id="a schedule of few steps"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = LearningRateTooLow().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_large_early_step_is_not_a_standstill(build: Callable[..., Any]) -> None:
    table = {"update_ratio": lambda t: 0.5 if t < 5 else 1e-5, "weight_norm": 5.0}
    assert LearningRateTooLow().check(*build(**STILL | {"table": table})) is None


def test_names_the_clipping(build: Callable[..., Any]) -> None:
    scalars = {"accuracy": 0.52, "grad_norm": clipped}
    finding = LearningRateTooLow().check(*build(**STILL | {"scalars": scalars}))
    assert finding is not None
    assert "clipped to a norm of 0.001" in finding.message
    assert finding.evidence["clipped_norm"] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(("passes", "expected"), [(1.0, True), (16.0, False)])
def test_a_sum_that_is_divided_by_the_batches_is_not_clipped(
    build: Callable[..., Any], passes: float, expected: bool
) -> None:
    scalars = {"accuracy": 0.52, "grad_norm": lambda t: 0.01 * noisy(t), "learning_rate": 0.01}
    scalars |= {"gradient_factor": 1 / 16, "backward_passes": passes}
    run = build(**STILL | {"scalars": scalars, "optimizer": OptimizerInfo("sgd", 0.05)})
    assert (LearningRateTooLow().check(*run) is not None) is expected


def test_thresholds_are_monotone(build: Callable[..., Any]) -> None:
    run = build(**STILL)
    reported = [LearningRateTooLow(travel=travel).check(*run) is not None for travel in (1e-4, 0.05, 0.1)]
    assert reported == [False, True, True]
