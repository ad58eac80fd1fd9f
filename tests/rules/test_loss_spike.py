from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import OptimizerInfo
from autotrainer.rules.loss_spike import LossSpike

noise = np.random.default_rng(0).standard_normal(2000)
small = np.random.default_rng(3).lognormal(0, 2, 2000)
heavy = np.random.default_rng(1).lognormal(0, 1.2, 2000)


def calm(t: int) -> float:
    return float(0.4 + 0.3 * np.exp(-t / 60) + 0.02 * noise[t])


def spiked(t: int, height: float = 0.8, begin: int = 450, length: int = 30) -> float:
    return calm(t) + height * (begin <= t < begin + length)


def run(curve: Callable[[int], float], **more: Any) -> dict[str, Any]:
    return {"losses": curve, "scalars": {"accuracy": 0.75, "loss": curve}} | more


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(run(spiked), "warning", id="spike that comes back"),
        pytest.param(run(lambda t: spiked(t, begin=560, length=99)), "warning", id="spike that lasts"),
        pytest.param(run(lambda t: spiked(t, length=1)), None, id="one hard batch"),
        pytest.param(run(lambda t: spiked(t, height=0.1)), None, id="small"),
        pytest.param(run(calm), None, id="none"),
        pytest.param(run(lambda t: 0.2 * heavy[t]), None, id="heavy-tailed batches"),
        pytest.param(run(lambda t: 0.02 * small[t] + 0.6 * (t < 20)), None, id="batches of a few rows"),
        pytest.param(run(lambda t: 1e-7 * (t >= 400)), None, id="rounding of a loss that is zero"),
        pytest.param(run(lambda t: spiked(t, begin=30)), None, id="in the first steps"),
        pytest.param(run(lambda t: 1e-4 * spiked(t) if t > 10 else 0.7), None, id="almost nothing of the whole loss"),
        pytest.param(run(spiked) | {"scalars": {"accuracy": 0.98}}, None, id="did no harm"),
        pytest.param(
            run(spiked) | {"scalars": {"accuracy": 0.75, "learning_rate": lambda t: 0.1 if t >= 440 else 0.01}},
            None,
            id="restart of the learning rate",
        ),
        pytest.param(run(spiked, optimizer=OptimizerInfo("adam", 1e-3, several=True)), None, id="adversarial"),
        pytest.param(run(lambda t: np.inf if t > 500 else spiked(t)), None, id="not finite: left to nonfinite"),
        pytest.param(run(spiked, steps=60), None, id="too few losses"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = LossSpike().check(*build(**case))
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(("length", "words"), [(30, "and has since returned to"), (150, "and is still")])
def test_message_has_step_and_recovery(build: Callable[..., Any], length: int, words: str) -> None:
    finding = LossSpike().check(*build(**run(lambda t: spiked(t, length=length))))
    assert finding is not None
    assert finding.evidence["spike_step"] == pytest.approx(450, abs=5)
    assert words in finding.message


def test_policy_gradient_losses_are_not_judged(build: Callable[..., Any]) -> None:
    case = run(lambda t: float(noise[t]), targets="real", loss="custom") | {"scalars": {"accuracy": np.nan}}
    assert LossSpike().check(*build(**case)) is None


def test_thresholds_are_monotone(build: Callable[..., Any]) -> None:
    reported = [LossSpike(rise=rise).check(*build(**run(spiked))) is not None for rise in (10.0, 0.5, 0.1)]
    assert reported == [False, True, True]
