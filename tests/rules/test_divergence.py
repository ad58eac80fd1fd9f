from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import OptimizerInfo
from autotrainer.rules.divergence import Divergence

noise = np.random.default_rng(0).standard_normal(2000)
CHANCE = {"accuracy": 0.5}


def rises(t: int) -> float:
    """Falls to 0.3 and then rises without end."""
    return float(0.3 + 0.4 * np.exp(-t / 30) + 0.02 * max(0, t - 200))


def bump(t: int) -> float:
    return 3.0 if 200 < t < 300 else 0.3


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({"losses": rises, "scalars": CHANCE}, "error", id="rises without end"),
        pytest.param(
            {"losses": lambda t: 0.01 * 1.3 ** min(t, 60), "steps": 70, "scalars": CHANCE}, "error", id="early"
        ),
        pytest.param({"losses": rises, "scalars": {"accuracy": 0.8}}, "warning", id="rises, but fair"),
        pytest.param({"losses": rises, "scalars": {"accuracy": 0.98}}, None, id="rises, but good"),
        pytest.param({"losses": lambda t: 0.5 + 0.001 * t, "scalars": CHANCE}, None, id="less than its double"),
        pytest.param({"losses": bump, "scalars": CHANCE}, None, id="has come down again"),
        pytest.param({"losses": lambda t: 0.7 + 0.05 * noise[t], "scalars": CHANCE}, None, id="flat"),
        pytest.param(
            {"losses": lambda t: 0.7 if t < 50 else 1e-4 * (1 + t / 200), "scalars": {"accuracy": 0.7}},
            None,
            id="doubles almost nothing",
        ),
        pytest.param(
            {"losses": lambda t: noise[t], "targets": "real", "loss": "custom", "scalars": {"accuracy": np.nan}},
            None,
            id="around zero: policy gradient",
        ),
        pytest.param(
            {"losses": lambda t: -1 - 0.01 * t, "targets": "real", "loss": "custom", "scalars": {"accuracy": np.nan}},
            None,
            id="negative log-likelihood",
        ),
        pytest.param(
            {
                "losses": lambda t: 0.3 + t / 200,
                "targets": "real",
                "loss": "custom",
                "scalars": {"accuracy": np.nan, "target_spread": lambda t: 1 + t / 150},
            },
            None,
            id="targets that grow: values in reinforcement learning",
        ),
        pytest.param(
            {"losses": rises, "targets": "real", "loss": "custom", "scalars": {"accuracy": np.nan}},
            "warning",
            id="no measure of skill",
        ),
        pytest.param(
            {"losses": rises, "scalars": CHANCE, "optimizer": OptimizerInfo("adam", 1e-3, several=True)},
            None,
            id="adversarial",
        ),
        pytest.param({"losses": rises, "scalars": CHANCE, "steps": 40}, None, id="too few losses"),
        pytest.param({}, None, id="healthy"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = Divergence().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_message_has_the_numbers(build: Callable[..., Any]) -> None:
    finding = Divergence().check(*build(losses=rises, scalars=CHANCE))
    assert finding is not None
    assert "27 times its best value so far" in finding.message
    assert "at the start; accuracy is 0.5" in finding.message


def test_thresholds_are_monotone(build: Callable[..., Any]) -> None:
    run = build(losses=rises, scalars=CHANCE)
    assert [Divergence(factor=f).check(*run) is not None for f in (100.0, 2.0, 1.2)] == [False, True, True]
