from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.rules.dormant_neurons import DormantNeurons

TANH = (
    LayerInfo("fc1", "dense", "tanh", 16, 100),
    LayerInfo("fc2", "dense", "tanh", 16, 272),
    LayerInfo("out", "dense", "linear", 1, 17, hidden=False),
)
STUCK: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}
UNKNOWN: dict[str, Any] = {
    "targets": "real",
    "loss": "custom",
    "losses": lambda t: 0.7,
    "scalars": {"accuracy": np.nan},
}


def smooth(*dormant: float) -> dict[str, Any]:
    """A model without zero regions."""
    return {"layers": TANH, "table": {"dormant": dormant, "dead_units": np.nan}}


def growing(last: float) -> dict[str, Any]:
    share = lambda t: [0.05 if t < 100 else last, 0.0, 0.0]  # noqa: E731
    return {"layers": TANH, "table": {"dormant": share, "dead_units": np.nan}}


def rectified(dormant: float, dead: float) -> dict[str, Any]:
    return {"table": {"dormant": [dormant, 0.1, 0.0], "dead_units": [dead, 0.1, np.nan]}}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(smooth(0.8, 0.0, 0.0) | STUCK, "error", id="most units and stuck"),
        pytest.param(smooth(0.4, 0.0, 0.0) | STUCK, "warning", id="many units and stuck"),
        pytest.param(smooth(0.8, 0.0, 0.0) | STUCK | {"planned_epochs": None}, "warning", id="no schedule"),
        pytest.param(rectified(0.75, 0.5) | STUCK, "error", id="nearly dead"),
        pytest.param(rectified(0.6, 0.3) | STUCK, "warning", id="more than the usual half"),
        pytest.param(growing(0.8) | UNKNOWN, "warning", id="grown, outcome unknown"),
        pytest.param(growing(0.6) | UNKNOWN, None, id="grown to some, outcome unknown"),
        pytest.param(smooth(0.8, 0.0, 0.0) | UNKNOWN, None, id="there from the start, outcome unknown"),
        pytest.param(
            growing(0.8) | UNKNOWN | {"losses": lambda t: 2 - t / 400, "steps": 300},
            None,
            id="grown while the loss falls",
        ),
        pytest.param(rectified(0.95, 0.95) | STUCK, None, id="dead: left to dying_relu"),
        pytest.param(rectified(0.45, 0.4) | STUCK, None, id="usual share of silent ReLUs"),
        pytest.param(smooth(0.8, 0.8, 0.0), None, id="part of a large network is enough"),
        pytest.param(smooth(0.2, 0.2, 0.0) | STUCK, None, id="few units"),
        pytest.param(smooth(0.0, 0.0, 0.9) | STUCK, None, id="only the output"),
        pytest.param(smooth(0.8, 0.0, 0.0) | STUCK | {"steps": 30}, None, id="young"),
        pytest.param(smooth(np.nan, np.nan, np.nan) | STUCK, None, id="not measured"),
        pytest.param(smooth(np.inf, 0.0, 0.0) | STUCK, None, id="outputs that are not finite"),
        pytest.param(
            smooth(0.8, 0.0, 0.0) | {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5, "batch_size": 4}},
            None,
            id="batches too small to tell",
        ),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = DormantNeurons().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_worst_layer_comes_first_and_embeddings_are_ignored(build: Callable[..., Any]) -> None:
    layers = (LayerInfo("words", "embedding", None, 8, 80), *TANH)
    case = {"layers": layers, "table": {"dormant": [0.9, 0.4, 0.5, 0.0], "dead_units": np.nan}}
    finding = DormantNeurons().check(*build(**case, **STUCK))
    assert finding is not None
    assert finding.layers == ("fc2", "fc1")
    assert finding.evidence["dormant"] == pytest.approx(0.5)
    assert "50% of the units of layer fc2" in finding.message


def test_threshold_is_monotone(build: Callable[..., Any]) -> None:
    run = build(**smooth(0.4, 0.0, 0.0), **STUCK)
    assert [DormantNeurons(dormant=d).check(*run) is not None for d in (0.6, 0.35, 0.2)] == [False, True, True]
