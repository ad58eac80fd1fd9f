from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import LossInfo
from autotrainer.rules.abnormal_initial_loss import AbnormalInitialLoss

LOGITS: dict[str, Any] = {"targets": "index", "loss": "ce", "output_units": 4}
SHARES: dict[str, Any] = {"targets": "index", "loss": "scce", "output_units": 4}
LABELS: dict[str, Any] = {"targets": "binary", "loss": "bce_logits"}
REAL: dict[str, Any] = {"targets": "real", "loss": "mse"}


def start(first: float, low: float, high: float, spread: float, **more: Any) -> dict[str, Any]:
    """Return a training that learns nothing, with this first loss and these first outputs."""
    outputs = {"output_min": low, "output_max": high, "output_spread": spread, "accuracy": 0.3}
    return {"losses": lambda t: first if t == 0 else 1.4, "steps": 3, "scalars": outputs | more}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(LOGITS | start(9.0, -20, 20, 8), "warning", id="logits far apart"),
        pytest.param(LOGITS | start(1.45, -1, 1, 0.5), None, id="ln 4"),
        pytest.param(LOGITS | start(2.2, -4, 4, 1.2, batch_size=4), None, id="few rows, noise"),
        pytest.param(LOGITS | start(0.05, -20, 20, 8), None, id="pretrained: far below"),
        pytest.param(LOGITS | start(45.0, -0.5, 0.5, 0.3), None, id="summed or weighted: not of these outputs"),
        pytest.param(SHARES | start(9.0, 0.0, 1.0, 0.4), "warning", id="sure of the wrong class"),
        pytest.param(SHARES | start(1.39, 0.2, 0.3, 0.02), None, id="shares about equal"),
        pytest.param(SHARES | start(9.0, 0.2, 0.3, 0.02), None, id="a penalty beside the loss"),
        pytest.param(LABELS | start(6.0, -15, 18, 9), "warning", id="labels, logits far from 0"),
        pytest.param(LABELS | start(0.75, -1, 1, 0.5), None, id="ln 2"),
        pytest.param(REAL | start(900.0, -90, 80, 30), "warning", id="outputs far larger than targets"),
        pytest.param(REAL | start(3.0, -4, 4, 1.4), None, id="outputs as large as targets"),
        pytest.param({"targets": "large", "loss": "mse"} | start(2.9e9, -1, 1, 0.5), None, id="targets are large"),
        pytest.param({**LOGITS, "loss": "custom"} | start(9.0, -20, 20, 8), None, id="a contrastive loss: ln N"),
        pytest.param(REAL | {"loss": "custom"} | start(-40.0, -90, 80, 30), None, id="a likelihood"),
        pytest.param(LOGITS | start(9.0, np.nan, np.nan, np.nan), None, id="outputs unknown"),
        pytest.param(LOGITS | start(np.nan, -20, 20, 8), None, id="first loss unknown"),
        pytest.param(
            LOGITS | start(9.0, -20, 20, 8) | {"steps": 600, "losses": lambda t: 9 * math.exp(-t / 60)},
            "warning",
            id="not learned",
        ),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = AbnormalInitialLoss().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_a_model_that_has_learned_is_not_reported(build: Callable[..., Any]) -> None:
    case = LOGITS | start(9.0, -20, 20, 8, accuracy=0.95) | {"steps": 600}
    assert AbnormalInitialLoss().check(*build(**case)) is None


def test_summed_losses_are_not_judged(build: Callable[..., Any]) -> None:
    history, context = build(**LOGITS, **start(9.0, -20, 20, 8))
    summed = LossInfo("CrossEntropyLoss", "cross_entropy", "logits", "either", 1, "sum")
    assert AbnormalInitialLoss().check(history, context) is not None
    assert AbnormalInitialLoss().check(history, type(context)(**{**_fields(context), "loss": summed})) is None


def _fields(context: Any) -> dict[str, Any]:
    return {name: getattr(context, name) for name in context.__dataclass_fields__}
