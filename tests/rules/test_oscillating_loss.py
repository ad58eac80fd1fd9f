from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.oscillating_loss import OscillatingLoss

rng = np.random.default_rng(0)
wild = rng.uniform(0.55, 0.85, 200).round(3)
calm = (0.83 + 0.01 * rng.standard_normal(200)).round(3)
small = rng.binomial(60, 0.85, 200) / 60
spiky = np.where(np.arange(200) % 3 == 1, 0.45, 0.15)
REAL = {"targets": "real", "loss": "mse", "losses": lambda t: 0.2 + np.exp(-t / 60)}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({"epochs": {"val_accuracy": lambda e: wild[e]}}, "error", id="wild swings"),
        pytest.param(
            {"epochs": {"val_accuracy": lambda e: 0.82 + 0.02 * (-1) ** e + 0.001 * (e % 7)}},
            "warning",
            id="mild swings",
        ),
        pytest.param({"epochs": {"val_accuracy": lambda e: calm[e]}}, None, id="flicker"),
        pytest.param({"epochs": {"val_accuracy": lambda e: 0.5 + 0.016 * e}}, None, id="rises"),
        pytest.param({"epochs": {"val_accuracy": lambda e: wild[e]}, "steps": 150}, None, id="too few epochs"),
        pytest.param({"epochs": {"accuracy": lambda e: wild[e]}}, "error", id="training accuracy where alone"),
        pytest.param(
            {"losses": lambda t: 1 + 0.6 * (-1) ** t, "scalars": {"accuracy": 0.5}, "steps": 200},
            "error",
            id="loss overshoots each step",
        ),
        pytest.param(
            {"losses": lambda t: 1 + 0.6 * (-1) ** t, "scalars": {"accuracy": 0.95}}, None, id="overshoots, but learns"
        ),
        pytest.param({"losses": lambda t: float(wild[t % 200])}, None, id="batch noise"),
        pytest.param({"epochs": {"val_accuracy": lambda e: wild[e]}, "steps": 300}, "error", id="short run"),
        pytest.param(
            {"epochs": {"val_accuracy": lambda e: wild[e]}, "steps": 240}, "warning", id="much of the schedule is left"
        ),
        pytest.param({"epochs": {"val_accuracy": lambda e: small[e]}}, None, id="few rows flicker"),
        pytest.param({"epochs": {"val_accuracy": lambda e: 0.9 - 0.5 * (e == 20)}}, None, id="one accident"),
        pytest.param(
            {
                "epochs": {"val_accuracy": lambda e: wild[e]},
                "scalars": {"learning_rate": lambda t: 0.01 * (1 + 9 * (t // 60 % 2))},
            },
            "warning",
            id="cyclic learning rate",
        ),
        pytest.param({"epochs": {"val_loss": lambda e: spiky[e]}} | REAL, "error", id="loss by epoch"),
        pytest.param({"epochs": {"loss": lambda e: 0.3 * spiky[e]}} | REAL, "warning", id="mild swings of the loss"),
        pytest.param({"epochs": {"val_loss": lambda e: 0.01 * spiky[e]}} | REAL, None, id="tiny loss swings"),
        pytest.param({"epochs": {"val_loss": lambda e: 0.9**e * (1 + 0.1 * (-1) ** e)}} | REAL, None, id="loss falls"),
        pytest.param({"epochs": {"val_loss": lambda e: 0.1 * e + 0.02 * (-1) ** e}} | REAL, None, id="loss rises"),
        pytest.param(
            {"epochs": {"val_loss": lambda e: spiky[e], "val_accuracy": lambda e: calm[e]}, "loss": "bce"},
            None,
            id="loss swings, accuracy does not",
        ),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = OscillatingLoss().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_early_swings_leave_the_window(build: Callable[..., Any]) -> None:
    run = build(epochs={"val_accuracy": lambda e: wild[e] if e < 12 else calm[e]})
    assert OscillatingLoss().check(*run) is None


def test_late_swings_are_detected(build: Callable[..., Any]) -> None:
    run = build(epochs={"val_accuracy": lambda e: calm[e] if e < 12 else wild[e]})
    assert OscillatingLoss().check(*run) is not None


def test_thresholds_of_the_paper_are_monotone(build: Callable[..., Any]) -> None:
    run = build(epochs={"val_accuracy": lambda e: wild[e]})
    assert [OscillatingLoss(swing=s).check(*run) is not None for s in (0.5, 0.1, 0.03)] == [False, True, True]
    assert [OscillatingLoss(share=s).check(*run) is not None for s in (1.0, 0.2)] == [False, True]


def test_raised_rate_is_detected_after_a_good_start(build: Callable[..., Any]) -> None:
    run = build(epochs={"val_accuracy": lambda e: calm[e] if e < 15 else 0.35 + 0.3 * (e % 2)})
    finding = OscillatingLoss().check(*run)
    assert finding is not None
    assert finding.severity == "error"
    assert finding.evidence["best"] == max(calm[:15])
    assert finding.evidence["behind_best"] > 0.7


@pytest.mark.parametrize("rows", [50, 60, 100, 150, 400])
@pytest.mark.parametrize("accuracy", [0.6, 0.85, 0.97, 1.0])
def test_noise_of_small_validation_sets_is_rarely_reported(
    build: Callable[..., Any], rows: int, accuracy: float
) -> None:
    """A set whose answers are drawn anew for a fifth of its rows each epoch hardly ever seems to swing."""
    draw = np.random.default_rng(rows)
    finding = 0
    for _ in range(40):
        values = draw.binomial(1, accuracy, rows)[None] * np.ones((30, 1))
        again = draw.random((30, rows)) < 0.2
        values[again] = draw.binomial(1, accuracy, int(again.sum()))
        mean = values.mean(axis=1)
        finding += OscillatingLoss().check(*build(epochs={"val_accuracy": mean.__getitem__})) is not None
    assert finding <= 2
