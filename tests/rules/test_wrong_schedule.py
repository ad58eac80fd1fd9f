from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import OptimizerInfo
from autotrainer.rules.wrong_schedule import WrongSchedule

SCHEDULED = {"optimizer": OptimizerInfo("sgd", 0.1, scheduled=True)}
ON_PLATEAUS = {"optimizer": OptimizerInfo("sgd", 0.1, scheduled=True, schedule="ReduceLROnPlateau")}
STUCK = {"losses": lambda t: 0.7}
STEPS = 600


def rate(of: Any, **case: Any) -> dict[str, Any]:
    """Return a run that does not learn, with a learning rate by the step."""
    return STUCK | {"scalars": {"accuracy": 0.5, "learning_rate": of}} | case


def rate_of(of: Any) -> dict[str, Any]:
    return {"scalars": {"accuracy": 0.75, "learning_rate": of}}


FAIR: dict[str, Any] = {"losses": lambda t: 0.5 + 0.2 * np.exp(-t / 20)}


def on_plateaus(step: int) -> float:
    return 0.1 * 0.03 ** min(step // 40, 3)  # epochs have 20 steps


def per_batch(step: int) -> float:
    return 0.1 * 0.9**step


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(rate(per_batch), "error", id="decay meant for epochs, stepped per batch"),
        pytest.param(rate(per_batch, steps=130), "error", id="the same, a fifth of the way"),
        pytest.param(rate(per_batch, steps=70), None, id="not long enough next to zero"),
        pytest.param(rate(per_batch, planned_epochs=None), "warning", id="no schedule known"),
        pytest.param({"scalars": {"learning_rate": per_batch}}, "info", id="learned well all the same"),
        pytest.param(FAIR | rate_of(per_batch), "error", id="a fair result, but rates that change within epochs"),
        pytest.param(FAIR | rate_of(on_plateaus), "warning", id="lowered on early plateaus"),
        pytest.param(rate(0.0), "error", id="zero from the start"),
        pytest.param(rate(lambda t: 0.1 * 0.97**t), "warning", id="gone after two fifths"),
        pytest.param(rate(lambda t: 0.1 * 0.98**t), None, id="gone beyond the middle"),
        pytest.param(rate(lambda t: 0.1 * min(1, t / 100), steps=15), None, id="warm-up from zero"),
        pytest.param(rate(lambda t: 0.05 * (1 + np.cos(np.pi * t / STEPS))), None, id="cosine to zero"),
        pytest.param(rate(lambda t: 0.05 * (1 + np.cos(np.pi * (t % 60) / 60))), None, id="warm restarts"),
        pytest.param(
            rate(lambda t: 0.05 * (1 + np.cos(np.pi * (t % 60) / 60)), steps=180), None, id="at the end of a cycle"
        ),
        pytest.param(rate(lambda t: 1e-4 + 0.1 * abs(t % 40 - 20) / 20), None, id="cyclic"),
        pytest.param(rate(lambda t: 0.1 * 0.1 ** (t // 200)), None, id="steps of a tenth"),
        pytest.param(rate(0.1, **SCHEDULED), "warning", id="a schedule that never changes anything"),
        pytest.param(rate(0.1, **SCHEDULED, steps=400), None, id="it may still come"),
        pytest.param(rate(0.1, **ON_PLATEAUS), None, id="no plateau has come"),
        pytest.param({"scalars": {"learning_rate": 0.1}, **SCHEDULED}, "info", id="learned well without it"),
        pytest.param(rate(lambda t: 0.1 if t < 560 else 0.01, **SCHEDULED), None, id="a late drop"),
        pytest.param(rate(0.1), None, id="constant, and no schedule"),
        pytest.param(rate(0.1, **SCHEDULED, planned_epochs=None), None, id="unknown end"),
        pytest.param(rate(0.1, **SCHEDULED, planned_epochs=2, steps=40), None, id="two epochs"),
        pytest.param(rate(np.nan, **SCHEDULED), None, id="rate unknown"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = WrongSchedule().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_message_says_when_the_rate_vanished(build: Callable[..., Any]) -> None:
    finding = WrongSchedule().check(*build(**rate(per_batch)))
    assert finding is not None
    assert 60 <= finding.evidence["since_step"] <= 80  # 0.9^66 < 1e-3
    assert "after each batch" in finding.message
    unused = WrongSchedule().check(*build(**rate(0.1, **SCHEDULED)))
    assert unused is not None
    assert "30 epochs" in unused.message
    assert "scheduler.step() is not called" in unused.message
    by_callback = {"optimizer": OptimizerInfo("sgd", 0.1, scheduled=True, schedule="LearningRateScheduler")}
    unused = WrongSchedule().check(*build(**rate(0.1, **by_callback)))
    assert unused is not None
    assert "scheduler.step()" not in unused.message


def test_thresholds_are_monotone(build: Callable[..., Any]) -> None:
    run = build(**rate(lambda t: 0.1 * 0.97**t))
    reported = [WrongSchedule(rest=share).check(*run) is not None for share in (0.9, 0.65, 0.5)]
    assert reported == [False, False, True]
