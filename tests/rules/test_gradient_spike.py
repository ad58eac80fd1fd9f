from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import OptimizerInfo
from autotrainer.rules.gradient_spike import GradientSpike

noise = np.random.default_rng(0).lognormal(0, 0.3, 1000)
heavy = np.random.default_rng(1).lognormal(0, 1.5, 1000)
POOR: dict[str, Any] = {"losses": lambda t: 0.6}


def grads(curve: Callable[[int], float]) -> dict[str, Any]:
    return POOR | {"scalars": {"accuracy": 0.7, "grad_norm": curve}}


def spiked(t: int, height: float = 50.0) -> float:
    """Noise, and a spike at each of the steps from 400 to 449 that are sampled."""
    return float(0.5 * noise[t] * (height if 400 <= t < 420 else 1.0))


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(grads(spiked), "warning", id="spike"),
        pytest.param(grads(lambda t: spiked(t, 5.0)), None, id="a few times the usual"),
        pytest.param(grads(lambda t: 0.5 * noise[t]), None, id="noise"),
        pytest.param(grads(lambda t: 0.5 * heavy[t]), None, id="heavy-tailed noise of single samples"),
        pytest.param(
            grads(lambda t: 5.0 if t < 10 else 0.1 * spiked(t, 50.0)), None, id="no larger than the first gradients"
        ),
        pytest.param(grads(lambda t: spiked(t) * (50.0 if t >= 500 else 1.0)), None, id="gradients that stay up"),
        pytest.param(grads(lambda t: np.nan), None, id="not measured"),
        pytest.param({"scalars": {"grad_norm": spiked, "accuracy": 0.99}}, None, id="did no harm"),
        pytest.param(grads(spiked) | {"optimizer": OptimizerInfo("adam", 1e-3, several=True)}, None, id="adversarial"),
        pytest.param(grads(spiked) | {"steps": 12}, None, id="too few samples"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = GradientSpike().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_message_has_step_and_size(build: Callable[..., Any]) -> None:
    table = {"grad_norm": lambda t: [0.1, spiked(t), 0.1]}
    finding = GradientSpike().check(*build(**grads(spiked), table=table))
    assert finding is not None
    assert 400 <= finding.evidence["spike_step"] < 420
    assert finding.evidence["ratio"] == pytest.approx(50.0, rel=0.7)
    assert finding.evidence["usual_grad_norm"] == pytest.approx(0.5, rel=0.3)
    assert finding.layers == ("fc2",)


def test_thresholds_are_monotone(build: Callable[..., Any]) -> None:
    run = build(**grads(spiked))
    assert [GradientSpike(z=z).check(*run) is not None for z in (100.0, 7.0, 2.0)] == [False, True, True]
