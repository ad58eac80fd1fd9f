from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.rules.stale_second_moment import StaleSecondMoment

STUCK: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}
HALF_WAY: dict[str, Any] = {"losses": lambda t: 0.5, "scalars": {"accuracy": 0.7}}
DIVERGES: dict[str, Any] = {"losses": lambda t: 0.7 * 1.02**t, "scalars": {"accuracy": 0.5}, "planned_epochs": None}


def ratio(*values: Any) -> dict[str, Any]:
    return {"table": {"second_moment_ratio": lambda t: [v(t) if callable(v) else v for v in values]}}


def again_and_again(t: int) -> float:
    return 4.0 if (t // 16) % 2 else 1.0


def now_and_then(t: int) -> float:
    return 4.0 if (t // 16) % 8 == 0 else 1.0


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(ratio(3.0, 1.0, 1.0) | STUCK, "error", id="far too small and stuck"),
        pytest.param(ratio(again_and_again, 1.0, 1.0) | STUCK, "error", id="again and again"),
        pytest.param(ratio(3.0, 1.0, 1.0) | DIVERGES, "error", id="far too small and the loss diverges"),
        pytest.param(ratio(3.0, 1.0, 1.0) | HALF_WAY, "warning", id="stopped half way"),
        pytest.param(ratio(3.0, 1.0, 1.0) | STUCK | {"planned_epochs": None}, "warning", id="no schedule"),
        pytest.param(ratio(1e-3, 0.02, 0.5) | STUCK, "warning", id="gradients below ε and stuck"),
        pytest.param(ratio(1e-3, 0.02, 0.05), None, id="gradients that fade at a good fit"),
        pytest.param(ratio(0.5, 0.5, 0.02) | STUCK, None, id="small in a layer of few parameters"),
        pytest.param(ratio(1.0, 1.0, 3.0) | STUCK, None, id="large in a layer of few parameters"),
        pytest.param(ratio(0.0, 0.0, 0.0) | STUCK, None, id="no gradient at all"),
        pytest.param(ratio(now_and_then, 1.0, 1.0) | STUCK, None, id="hard batches now and then"),
        pytest.param(ratio(3.0, 1.0, 1.0), None, id="large but learns"),
        pytest.param(
            ratio(3.0, 1.0, 1.0) | STUCK | {"losses": lambda t: 2 - t / 400, "steps": 300}, None, id="the loss falls"
        ),
        pytest.param(ratio(3.0, 1.0, 1.0) | STUCK | {"steps": 60}, None, id="young"),
        pytest.param(ratio(np.nan, np.nan, np.nan) | STUCK, None, id="no Adam"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = StaleSecondMoment().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_names_the_layer_and_leaves_embeddings_out(build: Callable[..., Any]) -> None:
    layers = (LayerInfo("words", "embedding", None, 8, 80), *build()[0].layers)
    case = {"layers": layers, "table": {"second_moment_ratio": [30.0, 1.0, 3.0, 1.0], "dead_units": np.nan}}
    finding = StaleSecondMoment().check(*build(**case, **STUCK))
    assert finding is not None
    assert finding.layers == ("fc2",)
    assert finding.evidence["ratio"] == pytest.approx(3.0)
    case["table"]["second_moment_ratio"] = [30.0, 1.0, 1.0, 1.0]
    assert StaleSecondMoment().check(*build(**case, **STUCK)) is None


def test_early_phase_leaves_the_window(build: Callable[..., Any]) -> None:
    early = ratio(lambda t: 9.0 if t < 250 else 1.0, 1.0, 1.0)
    assert StaleSecondMoment().check(*build(**early, **STUCK)) is None


def test_threshold_is_monotone(build: Callable[..., Any]) -> None:
    run = build(**ratio(2.0, 1.0, 1.0), **STUCK)
    assert [StaleSecondMoment(ratio=r).check(*run) is not None for r in (2.3, 1.9, 1.5)] == [False, True, True]
