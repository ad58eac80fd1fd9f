from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import OptimizerInfo
from autotrainer.rules.abnormal_update_ratio import AbnormalUpdateRatio

STUCK: dict[str, Any] = {"losses": lambda t: 0.69, "scalars": {"accuracy": 0.6}}
STRONG = OptimizerInfo("adamw", 0.003, weight_decay=10.0)


def decays(t: int) -> float:
    return float(3.0 * 0.4 ** min(1.0, t / 100))


def decayed(optimizer: OptimizerInfo, **more: Any) -> dict[str, Any]:
    """A training whose weights shrink to 40 %; the rate is that of the optimizer."""
    scalars = {"accuracy": 0.8, "learning_rate": optimizer.learning_rate}
    return {
        "losses": lambda t: 0.5,
        "scalars": scalars,
        "table": {"weight_norm": decays},
        "optimizer": optimizer,
    } | more


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(STUCK | {"table": {"update_ratio": 0.1}}, "warning", id="too large everywhere"),
        pytest.param(STUCK | {"table": {"update_ratio": 1e-6}}, "warning", id="too small everywhere"),
        pytest.param(
            {"losses": lambda t: 0.6, "scalars": {"accuracy": 0.75}, "table": {"update_ratio": 0.05}},
            None,
            id="too large, but some skill: labels may be noisy",
        ),
        pytest.param(STUCK | {"table": {"update_ratio": lambda t: max(1e-3 * 0.9**t, 1e-8)}}, None, id="converged"),
        pytest.param(
            decayed(STRONG, scalars={"accuracy": 0.88, "learning_rate": 0.003}), "warning", id="strong decay, fair"
        ),
        pytest.param(
            decayed(STRONG, scalars={"accuracy": 0.8, "learning_rate": lambda t: 0.003 * (1 - t / 600)}),
            "error",
            id="strong decay, at a rate that has fallen since",
        ),
        pytest.param(STUCK | {"table": {"update_ratio": [1e-3, 1e-3, 0.2]}}, "warning", id="too large in one layer"),
        pytest.param(STUCK | {"table": {"update_ratio": [1e-7, 1e-3, 1e-3]}}, "warning", id="too small in one layer"),
        pytest.param(STUCK | {"table": {"update_ratio": 1e-3}}, None, id="usual"),
        pytest.param(STUCK | {"table": {"update_ratio": 0.0}}, None, id="no steps at all"),
        pytest.param(STUCK | {"table": {"update_ratio": np.nan}}, None, id="not measured"),
        pytest.param({"table": {"update_ratio": 0.1}}, None, id="learns with large steps"),
        pytest.param({"table": {"update_ratio": 1e-7}}, None, id="learns with small steps"),
        pytest.param(
            STUCK
            | {
                "table": {"update_ratio": 1e-6},
                "scalars": {"accuracy": 0.6, "learning_rate": lambda t: 0.1 if t < 100 else 1e-4},
            },
            None,
            id="small steps by schedule",
        ),
        pytest.param(decayed(STRONG), "error", id="decays faster than it learns"),
        pytest.param(decayed(STRONG, planned_epochs=None), "warning", id="the same without a schedule"),
        pytest.param(decayed(OptimizerInfo("adamw", 0.003, weight_decay=0.1)), None, id="usual decay"),
        pytest.param(decayed(OptimizerInfo("adam", 0.003, weight_decay=10.0)), None, id="decay within the gradient"),
        pytest.param(
            decayed(OptimizerInfo("adam", 0.003, weight_decay=10.0), framework="keras3"),
            "error",
            id="decoupled decay in Keras",
        ),
        pytest.param(
            decayed(OptimizerInfo("sgd", 0.01, momentum=0.9, weight_decay=0.1)),
            "error",
            id="SGD with momentum accumulates decay",
        ),
        pytest.param(decayed(STRONG, scalars={"accuracy": 0.97}), None, id="strong decay, but good"),
        pytest.param(
            STUCK | {"table": {"update_ratio": 0.1}, "optimizer": OptimizerInfo("adam", 0.1, several=True)},
            None,
            id="several optimizers",
        ),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = AbnormalUpdateRatio().check(*build(**case))
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(
    ("ratios", "layers"),
    [([1e-3, 1e-3, 0.2], ("out",)), ([1e-7, 1e-3, 1e-3], ("fc1",)), ([0.1, 0.1, 0.1], ("fc1", "fc2", "out"))],
)
def test_names_the_layers(build: Callable[..., Any], ratios: list[float], layers: tuple[str, ...]) -> None:
    finding = AbnormalUpdateRatio().check(*build(**STUCK, table={"update_ratio": ratios}))
    assert finding is not None
    assert finding.layers == layers


def test_message_reports_what_decay_removes(build: Callable[..., Any]) -> None:
    finding = AbnormalUpdateRatio().check(*build(**decayed(STRONG)))
    assert finding is not None
    assert finding.message.startswith(
        "A weight decay of 10 is too strong: it removes 3.0% of the weights in each step and has shrunk them to 0.4"
    )


def test_a_ratio_alone_has_low_confidence(build: Callable[..., Any]) -> None:
    finding = AbnormalUpdateRatio().check(*build(**STUCK, table={"update_ratio": 0.1}))
    assert finding is not None
    assert finding.confidence < 0.5


def test_thresholds_are_monotone(build: Callable[..., Any]) -> None:
    run = build(**STUCK, table={"update_ratio": 0.02})
    assert [AbnormalUpdateRatio(high=h).check(*run) is not None for h in (-1.0, -1.5, -2.0)] == [False, False, True]
