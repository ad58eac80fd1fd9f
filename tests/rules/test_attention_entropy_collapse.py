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


def heads(low: float, usual: float = 0.5, head: Any = 2.0, narrow: float = 0.6, **columns: Any) -> dict[str, Any]:
    values = {"attention_entropy": 0.8, "attention_max_logit": 5.0, "head_logit_std_min": low, "head_logit_std": usual}
    values |= {"widest_head": head, "narrowest_head": head, "head_entropy_min": narrow, "head_entropy_max": 0.9}
    layers = tuple(LayerInfo(f"attention{i}", "attention", None, 16, 1088) for i in range(4))
    table = {
        name: np.broadcast_to(np.asarray(value, float), 4) if not callable(value) else value
        for name, value in (values | columns).items()
    }
    return {"layers": layers, "table": table | {"dead_units": np.nan}}


TRAINED = tuple(
    LayerInfo(f"attention{i}", "attention", None, 16, 1088, origin="trained" if i else "") for i in range(4)
)


def one(low: float, usual: float) -> list[float]:
    return [usual, low, usual, usual]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(heads(one(1e-4, 0.4)) | HALF_WAY, "warning", id="a dead head"),
        pytest.param(heads(one(1e-4, 0.4)), "info", id="a dead head in a model that learns"),
        pytest.param(heads(one(0.1, 0.4)) | HALF_WAY, None, id="a head that selects less"),
        pytest.param(heads(one(1e-4, 0.4), head=lambda t: [t % 3] * 4) | HALF_WAY, None, id="not always the same head"),
        pytest.param(heads(one(1e-4, 0.4), usual=one(2e-4, 0.5)) | HALF_WAY, "warning", id="all heads of a layer"),
        pytest.param(heads(0.002, usual=0.003) | HALF_WAY, None, id="small logits everywhere, as at the start"),
        pytest.param(heads(1e-6, usual=1e-5) | HALF_WAY, "warning", id="no logits at all"),
        pytest.param(
            heads(lambda t: [0.1 if t > 100 else 1e-5] * 4, usual=lambda t: [0.5 if t > 100 else 2e-5] * 4) | HALF_WAY,
            None,
            id="queries that start at zero",
        ),
        pytest.param(
            heads(0.3, narrow=0.001) | HALF_WAY, "warning", id="a head that selects one position from the start"
        ),
        pytest.param(heads(0.3, narrow=0.001), None, id="a head that selects one position and serves"),
        pytest.param(
            heads(0.3, narrow=0.001) | {"layers": TRAINED} | HALF_WAY, None, id="a sharp head of a trained network"
        ),
        pytest.param(heads(one(1e-4, 0.4)) | HALF_WAY | {"steps": 20}, None, id="young"),
    ],
)
def test_single_heads(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = AttentionEntropyCollapse().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_a_dead_head_is_named(build: Callable[..., Any]) -> None:
    finding = AttentionEntropyCollapse().check(*build(**heads(one(1e-4, 0.4)), **HALF_WAY))
    assert finding is not None
    assert finding.layers == ("attention1",)
    assert "Head 2 of layer attention1 has weighed all positions alike since the start" in finding.message
    assert finding.evidence["head"] == 2
