from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.oscillating_loss import OscillatingLoss

rng = np.random.default_rng(0)
wild = rng.uniform(0.55, 0.85, 200).round(3)
calm = (0.83 + 0.01 * rng.standard_normal(200)).round(3)
tiny = 0.8 + (rng.binomial(40, 0.5, 200) - 20) / 40 / 3


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
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    found = OscillatingLoss().check(*build(**case))
    assert (found.severity if found else None) == expected


def test_early_swings_leave_the_window(build: Callable[..., Any]) -> None:
    run = build(epochs={"val_accuracy": lambda e: wild[e] if e < 12 else calm[e]})
    assert OscillatingLoss().check(*run) is None


def test_late_swings_are_found(build: Callable[..., Any]) -> None:
    run = build(epochs={"val_accuracy": lambda e: calm[e] if e < 12 else wild[e]})
    assert OscillatingLoss().check(*run) is not None


def test_thresholds_of_the_paper_are_monotone(build: Callable[..., Any]) -> None:
    run = build(epochs={"val_accuracy": lambda e: wild[e]})
    assert [OscillatingLoss(swing=s).check(*run) is not None for s in (0.5, 0.1, 0.03)] == [False, True, True]
    assert [OscillatingLoss(share=s).check(*run) is not None for s in (1.0, 0.2)] == [False, True]
