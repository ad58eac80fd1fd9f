from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.slow_convergence import SlowConvergence

SLOW: dict[str, Any] = {"losses": lambda t: 0.7 - 1e-4 * t, "scalars": {"accuracy": 0.5}, "steps": 300}

WEAK: dict[str, Any] = {
    "losses": lambda t: 1.1 - 1e-4 * t,
    "targets": "real",
    "loss": "mse",
    "steps": 570,
}

STILL: dict[str, Any] = {
    "losses": lambda t: 0.5,
    "scalars": {"accuracy": 0.75},
    "steps": 300,
    "table": {"update_ratio": 1e-6},
}
"""Weights that hardly move, of a model that is right by chance more often than the commonest class."""

WHOLE: dict[str, Any] = {
    "losses": lambda t: 0.7 - 6e-3 * t,
    "scalars": {"accuracy": 0.8},
    "steps": 40,
    "per_epoch": 1,
    "planned_epochs": 40,
}
"""Batches of all rows."""


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(SLOW, "error", id="falls, far too slowly"),
        pytest.param(SLOW | {"planned_epochs": None}, "warning", id="no schedule"),
        pytest.param(SLOW | {"steps": 60}, None, id="young"),
        pytest.param(SLOW | {"losses": lambda t: 0.7}, None, id="does not fall at all"),
        pytest.param(STILL | {"losses": lambda t: 0.7 if t < 99 else np.inf}, None, id="not finite: not slow"),
        pytest.param({"steps": 300}, None, id="learns"),
        pytest.param(
            {"losses": lambda t: 0.65, "scalars": {"accuracy": 0.6}, "steps": 400}, "warning", id="little learned, flat"
        ),
        pytest.param(SLOW | {"losses": lambda t: 0.7 - 1.5e-3 * t}, None, id="gets there in time"),
        pytest.param(SLOW | {"epochs": {"accuracy": lambda e: 0.4 + 0.02 * e}}, None, id="accuracy rises every epoch"),
        pytest.param(SLOW | {"epochs": {"accuracy": lambda e: 0.58 if e == 9 else 0.5}}, "error", id="one lucky epoch"),
        pytest.param(WEAK | {"scalars": {"squared_error": 1.0}}, "error", id="regression at the mean"),
        pytest.param(WEAK | {"scalars": {"squared_error": 0.97}}, "warning", id="R² that is low, and surely above 0"),
        pytest.param(
            WEAK | {"scalars": {"squared_error": 0.85}}, "warning", id="R² that weak data may allow no more of"
        ),
        pytest.param(STILL, "error", id="weights stand still, some skill by chance"),
        pytest.param(STILL | {"scalars": {"accuracy": 0.97}}, None, id="weights stand still, but it is good"),
        pytest.param(STILL | {"table": {"update_ratio": 1e-4}}, None, id="small steps, some skill"),
        pytest.param(
            STILL
            | {
                "table": {"update_ratio": lambda t: 0.05 * 0.8**t},
                "scalars": {"accuracy": 0.62},
                "losses": lambda t: 0.67,
            },
            "warning",
            id="usual steps at first, at rest since",
        ),
        pytest.param(WHOLE, "error", id="one step an epoch, still falling"),
        pytest.param(WHOLE | {"scalars": {"accuracy": 0.92}}, "warning", id="one step an epoch, nearly good"),
        pytest.param(WHOLE | {"scalars": {"accuracy": 0.97}}, None, id="one step an epoch was enough"),
        pytest.param(WHOLE | {"steps": 30}, None, id="one step an epoch, not at its end"),
        pytest.param(WHOLE | {"per_epoch": 4, "planned_epochs": 10}, None, id="few steps, since few epochs"),
        pytest.param(WHOLE | {"losses": lambda t: 0.5 + 0.02 * np.sin(t)}, None, id="one step an epoch, at rest"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = SlowConvergence().check(*build(**case))
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(("ratio", "expected"), [(1e-6, "error"), (0.05, None)])
def test_few_samples_show_tiny_steps(build: Callable[..., Any], ratio: float, expected: str | None) -> None:
    case = STILL | {"table": {"update_ratio": ratio}, "steps": 6, "per_epoch": 1, "planned_epochs": 6}
    history, context = build(**case)
    assert len(history.steps) < 10
    finding = SlowConvergence().check(history, context)
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(("steps", "expected"), [(120, None), (400, "error")])
def test_fine_tuning_may_need_small_changes(build: Callable[..., Any], steps: int, expected: str | None) -> None:
    case = STILL | {"table": {"update_ratio": 1.2e-4}, "scalars": {"accuracy": 0.52}, "steps": steps}
    case |= {"losses": lambda t: 0.7}
    history, context = build(**case | {"layers": [replace(layer, origin="trained") for layer in build()[0].layers]})
    finding = SlowConvergence().check(history, context)
    assert (finding.severity if finding else None) == expected
    assert SlowConvergence().check(*build(**case)) is not None


def test_threshold_of_the_paper_is_monotone(build: Callable[..., Any]) -> None:
    run = build(**SLOW, epochs={"accuracy": lambda e: 0.48 + 0.001 * e})
    assert [SlowConvergence(gain=g).check(*run) is not None for g in (5e-4, 1e-2)] == [False, True]


def test_score_derived_from_the_loss_is_stated_once(build: Callable[..., Any]) -> None:
    loss = 0.97 * math.log(2)
    run = build(losses=lambda t: loss, scalars={"accuracy": np.nan}, steps=400)
    finding = SlowConvergence().check(*run)
    assert finding is not None
    assert (
        finding.message
        == "The loss has stopped falling, but it is 0.97 times that of a constant prediction after 400 steps."
    )


@pytest.mark.parametrize("falls", [False, True])
def test_a_low_score_at_the_end_is_told_with_the_course_of_the_loss(build: Callable[..., Any], falls: bool) -> None:
    losses = (lambda t: 0.8 * 0.998**t) if falls else (lambda t: 0.4)
    case = {"targets": "index", "loss": "ce", "losses": losses, "scalars": {"accuracy": 0.45, "update_ratio": 1e-2}}
    finding = SlowConvergence().check(*build(**case, finished=True))
    assert finding is not None
    assert finding.severity == "warning"
    assert finding.message.startswith("The loss fell by" if falls else "The loss has stopped falling, but accuracy")
