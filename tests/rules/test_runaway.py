from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import OptimizerInfo
from autotrainer.rules._shared.outcome import outcome
from autotrainer.rules._shared.runaway import loss_rise, momentum_travel
from autotrainer.rules._shared.steps import steps_taken


def noise(t: int) -> float:
    """Noise of batches, the same in each test: about a third of its amplitude as standard deviation."""
    return float(np.sin(12.9898 * t) * np.cos(78.233 * t))


@pytest.mark.parametrize(
    ("losses", "rise"),
    [
        pytest.param(lambda t: 0.2 + 0.5 * np.exp(-t / 20), 1.0, id="falls"),
        pytest.param(lambda t: 0.6 + 0.2 * noise(t), 1.0, id="noise of batches"),
        pytest.param(lambda t: 0.3 if t < 60 else 0.9, 3.0, id="three times its best"),
        pytest.param(lambda t: 0.9 if t < 60 else 0.3, 1.0, id="fell at once"),
        pytest.param(lambda t: -1.0 + t / 50, 1.0, id="below zero"),
        pytest.param(lambda t: 0.9 if 40 < t < 60 else 0.3, 1.0, id="has come back"),
        pytest.param(lambda t: np.nan if t % 2 else 0.3, 1.0, id="half of them not finite"),
    ],
)
def test_loss_rise(build: Callable[..., Any], losses: Callable[[int], float], rise: float) -> None:
    history, _ = build(losses=losses, steps=120)
    assert loss_rise(history) == pytest.approx(rise, rel=0.1)


def test_larger_targets_make_larger_losses(build: Callable[..., Any]) -> None:
    run: dict[str, Any] = {"losses": lambda t: (1 + t / 50) ** 2, "targets": "real", "loss": "mse", "steps": 200}
    usual, grown = (build(**run, scalars={"target_spread": s})[0] for s in (1.0, lambda t: 1 + t / 50))
    assert loss_rise(grown) < loss_rise(usual) / 2


@pytest.mark.parametrize(
    ("optimizer", "planned_epochs", "carried"),
    [
        (OptimizerInfo("sgd", 0.05, 0.999), 30, 0.02 * 500),
        (OptimizerInfo("sgd", 0.05, 0.999), 4, None),
        (OptimizerInfo("sgd", 0.05, 0.999), 300, None),
        (OptimizerInfo("sgd", 0.05, 0.9), 30, None),
        (OptimizerInfo("adam", 0.05, 0.999), 30, None),
        (OptimizerInfo("sgd", 0.05, 0.999), None, None),
    ],
    ids=["undamped", "over", "damped within the schedule", "usual", "no plain momentum", "no schedule"],
)
def test_momentum_travel(
    build: Callable[..., Any], optimizer: OptimizerInfo, planned_epochs: int | None, carried: float | None
) -> None:
    history, context = build(
        steps=80 if planned_epochs == 4 else 100,
        table={"update_ratio": 0.02},
        optimizer=optimizer,
        planned_epochs=planned_epochs,
    )
    travel = momentum_travel(context, outcome(history, context), steps_taken(history))
    assert travel == pytest.approx(carried or 0.0)
