from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.too_few_epochs import TooFewEpochs

RNG = np.random.default_rng(0)


def falls(t: int) -> float:
    """Fall without an end in sight, with the noise of batches."""
    return float(0.69 - 4e-4 * t + 0.02 * np.sin(12.9898 * t) * np.cos(78.233 * t))


POOR: dict[str, Any] = {"losses": falls, "scalars": {"accuracy": 0.65}}
FAIR: dict[str, Any] = {"losses": falls, "scalars": {"accuracy": 0.85}}
SHORT: dict[str, Any] = {
    "planned_epochs": 2,
    "steps": 40,
    "scalars": {"accuracy": 0.6},
    "losses": lambda t: 0.7 - 1e-3 * t,
}
LAST: dict[str, Any] = SHORT | {
    "scalars": {"accuracy": 0.72},
    "losses": lambda t: 0.7 - 2e-3 * t + 0.1 * np.sin(12.9898 * t) * np.cos(78.233 * t),
}
"""A loss that falls over the run, with batches that hide by how much in its last third."""
STUCK: dict[str, Any] = {"losses": lambda t: 0.7 + 0.02 * np.sin(t), "scalars": {"accuracy": 0.5}}
REAL: dict[str, Any] = {"targets": "real", "loss": "mse"}
SLOW: dict[str, Any] = {"losses": lambda t: 0.6 - 7e-5 * t, "scalars": {"accuracy": 0.7}, "finished": True}
SIMPLE = {"linear_score": 0.95, "trivial_score": 0.5, "held_out_rows": 250.0}


def rising(start: float, by: float) -> Callable[[int], float]:
    """Return a value that rises epoch by epoch."""
    return lambda e: start + by * e


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(POOR, "error", id="poor, still falling"),
        pytest.param(POOR | {"steps": 500}, None, id="poor, not at its end"),
        pytest.param(SLOW, None, id="falls slowly, and no more may be reachable"),
        pytest.param(SLOW | {"asked": SIMPLE}, "error", id="falls slowly, far below a simple model"),
        pytest.param(
            SLOW | {"asked": SIMPLE, "losses": lambda t: 0.6 + 0.001 * np.sin(t)},
            None,
            id="at rest, far below a simple model",
        ),
        pytest.param(POOR | {"planned_epochs": None}, None, id="no schedule, running"),
        pytest.param(POOR | {"planned_epochs": None, "finished": True}, "warning", id="no schedule, ended"),
        pytest.param(POOR | {"steps": 300, "finished": True}, None, id="stopped by hand before its end"),
        pytest.param(FAIR, None, id="fair, on rows that may be memorized"),
        pytest.param(
            FAIR | {"planned_epochs": 5, "steps": 100, "losses": lambda t: 0.6 - 1e-3 * t},
            "warning",
            id="fair, after few passes",
        ),
        pytest.param(FAIR | {"epochs": {"val_accuracy": rising(0.7, 0.004)}}, "warning", id="fair, score still rises"),
        pytest.param(FAIR | {"epochs": {"val_accuracy": lambda e: 0.85}}, None, id="fair, score at rest"),
        pytest.param(
            FAIR | {"epochs": {"val_accuracy": rising(0.7, 0.004), "val_loss": lambda e: 0.5 + 0.02 * abs(e - 5)}},
            None,
            id="validation loss rises",
        ),
        pytest.param(
            POOR | {"epochs": {"val_loss": lambda e: 0.5 + 0.2 * np.exp(-e / 4), "val_accuracy": lambda e: 0.65}},
            None,
            id="training loss falls on, validation loss at rest",
        ),
        pytest.param(
            POOR | {"scalars": {"accuracy": 0.65, "learning_rate": lambda t: 0.1 * (1 - t / 600)}},
            None,
            id="learning rate decayed",
        ),
        pytest.param(
            POOR | {"scalars": {"accuracy": 0.65, "learning_rate": lambda t: 0.1 * t / 600}}, "error", id="warm-up"
        ),
        pytest.param(POOR | {"scalars": {"accuracy": 0.97}}, None, id="good"),
        pytest.param(POOR | {"losses": lambda t: 0.6 + 0.02 * np.sin(t)}, None, id="poor, at rest"),
        pytest.param(POOR | {"losses": lambda t: 0.5 + 0.2 * np.exp(-t / 60)}, None, id="poor, converged"),
        pytest.param(SHORT, "error", id="forty steps, falling"),
        pytest.param(SHORT | {"losses": lambda t: 0.7 + 0.02 * np.sin(t)}, None, id="forty steps, flat"),
        pytest.param(SHORT | {"steps": 20, "planned_epochs": 1} | STUCK, "error", id="twenty steps, nothing learned"),
        pytest.param(SHORT | STUCK, None, id="forty steps, nothing learned, flat"),
        pytest.param(SHORT | {"scalars": {"accuracy": 0.95}}, None, id="forty steps are enough"),
        pytest.param(
            SHORT | {"scalars": {"accuracy": 0.87}, "losses": lambda t: 1.6 * 0.96**t}, "error", id="fair, would halve"
        ),
        pytest.param(
            SHORT | {"scalars": {"accuracy": 0.92}, "losses": lambda t: 0.7 * 0.96**t},
            "warning",
            id="fine, would halve",
        ),
        pytest.param(LAST | {"epochs": {"val_loss": lambda e: 0.6 - 0.06 * e}}, "error", id="fell in the last epoch"),
        pytest.param(LAST | {"epochs": {"val_loss": lambda e: 0.6 - 0.01 * e}}, None, id="hardly fell in it"),
        pytest.param(SHORT | {"steps": 4, "per_epoch": 2}, None, id="too few losses"),
        pytest.param(
            REAL | {"losses": lambda t: 1 - t / 900, "scalars": {"squared_error": 0.5}}, "error", id="R² rises"
        ),
        pytest.param(
            REAL
            | {"losses": lambda t: 0.2 - t / 6000, "scalars": {"squared_error": 0.14}}
            | {"epochs": {"val_loss": lambda e: 0.2 - e / 300}},
            "warning",
            id="R² fair",
        ),
        pytest.param(
            REAL | {"losses": lambda t: 0.12 - t / 3e4, "scalars": {"squared_error": 0.105}}, None, id="R² hardly rises"
        ),
        pytest.param(REAL | {"losses": lambda t: 9 - t / 100, "loss": "custom"}, None, id="score unknown"),
        pytest.param(POOR | {"steps": 599}, None, id="the last epoch has not ended"),
        pytest.param(POOR | {"steps": 599, "finished": True}, "error", id="ended within the last epoch"),
        pytest.param({}, None, id="healthy"),
        pytest.param({"finished": True, "planned_epochs": None}, None, id="healthy, no schedule"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = TooFewEpochs().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_losses_of_epochs_replace_missing_step_losses(build: Callable[..., Any]) -> None:
    poor = {"loss": lambda e: 0.7 - 0.01 * e, "accuracy": lambda e: 0.6 + 0.001 * e}
    run = build(losses=lambda t: np.nan, epochs=poor, scalars={"loss": np.nan, "accuracy": np.nan})
    finding = TooFewEpochs().check(*run)
    assert finding is not None
    assert finding.severity == "error"
    assert "the loss still fell by" in finding.message
