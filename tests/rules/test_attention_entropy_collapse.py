from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.rules.attention_entropy_collapse import AttentionEntropyCollapse

LAYERS = (
    LayerInfo("words", "embedding", None, 16, 800),
    LayerInfo("attention", "attention", None, 16, 1088),
    LayerInfo("out", "dense", "linear", 1, 17, hidden=False),
)
STUCK: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}
UNKNOWN: dict[str, Any] = {"targets": "real", "loss": "custom", "scalars": {"accuracy": np.nan}}
HALF_WAY: dict[str, Any] = {"losses": lambda t: 0.5, "scalars": {"accuracy": 0.7}}
DIVERGES: dict[str, Any] = {"losses": lambda t: 0.7 * 1.02**t, "scalars": {"accuracy": 0.5}, "planned_epochs": None}


def attention(entropy: float, logit: Any = 5.0) -> dict[str, Any]:
    def at(t: int) -> list[float]:
        return [np.nan, logit(t) if callable(logit) else logit, np.nan]

    table = {"attention_entropy": [np.nan, entropy, np.nan], "attention_max_logit": at, "dead_units": np.nan}
    return {"layers": LAYERS, "table": table}


def rising(t: int) -> float:
    return 20.0 + t


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(attention(0.03, 400.0) | STUCK, "error", id="low entropy and stuck"),
        pytest.param(attention(0.3, rising) | STUCK, "error", id="rising logits and stuck"),
        pytest.param(attention(0.3, rising) | DIVERGES, "error", id="rising logits and a loss that diverges"),
        pytest.param(attention(0.03) | STUCK | {"planned_epochs": None}, "warning", id="no schedule"),
        pytest.param(attention(0.03) | STUCK | {"steps": 12}, "warning", id="young"),
        pytest.param(attention(0.4, rising) | UNKNOWN, "warning", id="rising logits, outcome unknown"),
        pytest.param(attention(0.03) | HALF_WAY, "error", id="low entropy that end half way"),
        pytest.param(attention(0.3, rising) | HALF_WAY, "warning", id="rising logits that end half way"),
        pytest.param(attention(0.03, 400.0), None, id="low entropy that serve"),
        pytest.param(attention(0.3, rising), None, id="rising logits but learns"),
        pytest.param(attention(0.3, 150.0) | STUCK, None, id="large logits that do not rise"),
        pytest.param(attention(0.6, lambda t: 1 + t / 20) | STUCK, None, id="usual logits"),
        pytest.param(attention(0.03) | STUCK | {"steps": 4}, None, id="too few samples"),
        pytest.param(attention(np.nan, np.nan) | STUCK, None, id="not measured"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = AttentionEntropyCollapse().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_message_has_the_measured_numbers(build: Callable[..., Any]) -> None:
    narrow = AttentionEntropyCollapse().check(*build(**attention(0.03, 400.0), **STUCK))
    loud = AttentionEntropyCollapse().check(*build(**attention(0.3, rising), **STUCK))
    assert narrow is not None
    assert loud is not None
    assert narrow.layers == loud.layers == ("attention",)
    assert "has collapsed to 3.0% of the maximum entropy (largest logit 400)" in narrow.message
    assert "The largest attention logit of layer attention has grown to 596, 29 times its initial value" in loud.message
    assert loud.evidence["logit_growth"] > 10


def test_either_signal_alone_is_enough(build: Callable[..., Any]) -> None:
    for case in (attention(0.03, np.nan), attention(np.nan, rising)):
        assert AttentionEntropyCollapse().check(*build(**case, **STUCK)) is not None


def test_threshold_is_monotone(build: Callable[..., Any]) -> None:
    run = build(**attention(0.15), **STUCK)
    reported = [AttentionEntropyCollapse(entropy=e).check(*run) is not None for e in (0.1, 0.2, 0.4)]
    assert reported == [False, True, True]
