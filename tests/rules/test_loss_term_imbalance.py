from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.loss_term_imbalance import LossTermImbalance
from autotrainer.rules.nonfinite import NonFinite

STUCK = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}
FAIR = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.68}}
UNKNOWN = {"loss": "custom", "targets": "real"}


def noisy(level: float) -> Callable[[int], float]:
    return lambda t: level * (1 + 0.1 * np.sin(t))


def falling(level: float) -> Callable[[int], float]:
    return lambda t: level * (0.1 + np.exp(-t / 60))


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({}, None, id="a single term"),
        pytest.param({"terms": {"a": noisy(1.0), "b": noisy(0.01)}}, None, id="a hundredth"),
        pytest.param(STUCK | {"terms": {"a": noisy(0.7), "b": falling(9e5)}}, "error", id="outweighed, and no skill"),
        pytest.param(
            STUCK | {"terms": {"a": noisy(0.7), "b": falling(9e5)}, "planned_epochs": None},
            "warning",
            id="the same without a plan",
        ),
        pytest.param(FAIR | {"terms": {"a": noisy(0.7), "b": falling(9e5)}}, "warning", id="outweighed, little skill"),
        pytest.param({"terms": {"a": noisy(0.7), "b": falling(9e5)}}, "info", id="outweighed, but learned"),
        pytest.param(STUCK | {"terms": {"a": lambda t: 0.7, "b": noisy(1e-5)}}, "info", id="a small penalty"),
        pytest.param(
            STUCK | {"terms": {"a": noisy(0.7), "b": lambda t: 9e5 if t < 300 else 1.0 + 0.1 * np.sin(t)}},
            "error",
            id="outweighed until it had collapsed",
        ),
        pytest.param(UNKNOWN | {"terms": {"a": noisy(1), "b": noisy(9e5)}}, "warning", id="no outcome, and flat"),
        pytest.param(
            UNKNOWN | {"terms": {"policy": lambda t: np.sin(t), "values": noisy(9e5)}},
            None,
            id="the objective of a policy hovers around zero",
        ),
        pytest.param(UNKNOWN | {"terms": {"a": noisy(1), "b": falling(9e5)}}, "info", id="no outcome, but it falls"),
        pytest.param(
            UNKNOWN | {"terms": {"a": lambda t: 1.0 + t, "b": falling(9e7)}}, "warning", id="no outcome, the rest rises"
        ),
        pytest.param(
            UNKNOWN
            | {"terms": {"a": lambda t: 150 + 500 * np.exp(-t / 300), "b": lambda t: 1e-3 + 0.1 * max(0, t - 250)}},
            "info",
            id="no outcome, a divergence that begins at zero",
        ),
        pytest.param(
            STUCK | {"terms": {"BCEWithLogitsLoss": noisy(0.7), "kl": lambda t: 5 * np.exp(-t / 60)}},
            "error",
            id="the others are minimized in its place",
        ),
        pytest.param(
            STUCK
            | {"terms": {"BCEWithLogitsLoss": noisy(0.7), "penalty": lambda t: 5 * np.exp(-t / 60)}}
            | {"table": {"weight_norm": lambda t: 0.1 + np.exp(-t / 60)}},
            None,
            id="penalties have shrunk the weights",
        ),
        pytest.param(
            {"terms": {"BCEWithLogitsLoss": falling(0.7), "kl": lambda t: 5 * np.exp(-t / 60)}},
            None,
            id="the others vanish, and it learns",
        ),
        pytest.param(
            STUCK | {"terms": {"BCEWithLogitsLoss": noisy(0.7), "kl": lambda t: 0.5 + 5 * np.exp(-t / 60)}},
            None,
            id="the others keep a size",
        ),
        pytest.param(
            STUCK | {"terms": {"a": noisy(0.7), "b": lambda t: 5 * np.exp(-t / 60)}},
            None,
            id="which term has the targets is unknown",
        ),
        pytest.param({"terms": {"a": noisy(0.7), "b": 0.5}}, "warning", id="constant"),
        pytest.param(
            {"terms": {"a": noisy(0.7), "b": lambda t: 5e-3 + 4e-8 * t}, "framework": "keras3"}, None, id="slow penalty"
        ),
        pytest.param(
            {"terms": {"a": noisy(0.7), "b": 0.5, "remainder": lambda t: 0.3 if t == 0 else np.nan}},
            "warning",
            id="constant, with another name in the first step",
        ),
        pytest.param({"terms": {"a": noisy(0.7), "b": 0.0}}, "info", id="always zero"),
        pytest.param({"terms": {"a": 0.7, "b": 0.5}}, None, id="the same batch, and nothing moves"),
        pytest.param({"terms": {"a": noisy(0.7), "b": lambda t: 0.5 + 1e-4 * t}}, None, id="nearly constant"),
        pytest.param({"terms": {"a": noisy(0.7), "b": 0.5}, "steps": 6}, None, id="few samples"),
        pytest.param({"terms": {"a": noisy(0.7), "b": lambda t: 0.5 if t < 300 else np.inf}}, "error", id="not finite"),
        pytest.param(
            {"terms": {"a": noisy(0.7), "b": lambda t: np.inf if t == 8 else 0.5}}, "warning", id="once not finite"
        ),
        pytest.param({"terms": {"a": lambda t: np.inf, "b": lambda t: np.inf}}, None, id="all of them at once"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = LossTermImbalance().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_names_the_term_that_is_not_finite(build: Callable[..., Any]) -> None:
    lost = {"losses": lambda t: 0.7 if t < 300 else np.inf}
    run = build(
        **lost, terms={"data": lambda t: 0.5 if t < 400 else np.inf, "kl": lambda t: 0.1 if t < 300 else np.inf}
    )
    for rule in (LossTermImbalance(), NonFinite()):
        finding = rule.check(*run)
        assert finding is not None
        assert "“kl”" in finding.message
        assert "“data”" not in finding.message


def test_the_largest_of_several_terms_is_named(build: Callable[..., Any]) -> None:
    run = build(**STUCK, terms={"a": noisy(0.7), "b": noisy(0.2), "c": falling(9e5)})
    finding = LossTermImbalance().check(*run)
    assert finding is not None
    assert "“c”" in finding.message
    assert finding.evidence["ratio"] > 1e4
    assert LossTermImbalance(ratio=1e9).check(*run) is None
