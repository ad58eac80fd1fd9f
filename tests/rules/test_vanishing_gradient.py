from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.findings import Severity
from autotrainer.records.signals import LayerInfo
from autotrainer.rules.vanishing_gradient import VanishingGradient

FADED = {"grad_norm": [1e-9, 1e-5, 1e-2]}
STUCK: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({"table": FADED} | STUCK, "error", id="vanished and stuck"),
        pytest.param({"table": {"grad_norm": 0.0}} | STUCK, "error", id="zero everywhere and stuck"),
        pytest.param(
            {"table": {"grad_norm": 0.0}, "losses": lambda t: 0.7, "scalars": {"accuracy": 0.66}},
            "error",
            id="zero everywhere, and few batches score above a constant",
        ),
        pytest.param(
            {"table": {"grad_norm": 0.0}, "scalars": STUCK["scalars"], "losses": lambda t: 0.7 if t < 9 else np.inf},
            None,
            id="zero everywhere, since the loss is not finite",
        ),
        pytest.param({"table": {"grad_norm": [0.0, 0.0, 1e-2]}} | STUCK, "error", id="zero but for the last layer"),
        pytest.param({"table": FADED, "planned_epochs": None} | STUCK, "warning", id="no schedule"),
        pytest.param({"table": FADED, "steps": 15} | STUCK, "warning", id="young"),
        pytest.param({"table": FADED}, None, id="vanished but learns"),
        pytest.param({"table": {"grad_norm": 0.0}}, None, id="zero at a perfect fit"),
        pytest.param(STUCK, None, id="stuck with healthy gradients"),
        pytest.param({"table": {"grad_norm": [1e-5, 1e-2, 1e-2]}, "steps": 15} | STUCK, None, id="mild and young"),
        pytest.param({"table": {"grad_norm": np.nan}} | STUCK, None, id="not measured"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = VanishingGradient().check(*build(**case))
    assert (finding.severity if finding else None) == expected


READER = (
    LayerInfo("words", "embedding", None, 8, 800),
    LayerInfo("reader", "recurrent", "tanh", 16, 400),
    LayerInfo("out", "dense", "linear", 1, 17, hidden=False),
)


@pytest.mark.parametrize(
    ("gradients", "changes", "expected"),
    [
        pytest.param([1e-18, 0.1, 0.2], STUCK, "error", id="forgotten"),
        pytest.param([0.0, 0.1, 0.2], STUCK, "error", id="exactly zero"),
        pytest.param([1e-18, 0.1, 0.2], {}, None, id="forgotten, but learns: by a bypass"),
        pytest.param([1e-5, 0.1, 0.2], STUCK, None, id="small"),
        pytest.param([0.1, 0.1, 0.2], STUCK | {"typical": 1e-17}, "error", id="only the row that pads has a gradient"),
        pytest.param([0.1, 0.1, 0.2], STUCK | {"typical": 1e-3}, None, id="rare words"),
        pytest.param([np.nan, 0.1, 0.2], STUCK, None, id="not measured"),
        pytest.param(
            [1e-18, 0.1, 0.2],
            STUCK | {"layers": (replace(READER[0], frozen=True), *READER[1:])},
            None,
            id="frozen embedding",
        ),
    ],
)
def test_tokens_that_a_recurrent_layer_has_forgotten(
    build: Callable[..., Any], gradients: list[float], changes: dict[str, Any], expected: str | None
) -> None:
    rest = [np.nan, np.nan]
    typical = [changes.get("typical", 0.5), *rest]
    table = {"grad_norm": gradients, "equal_indices": [0.8, *rest], "typical_row_gradient": typical}
    case = {"layers": READER, "table": table} | changes
    case.pop("typical", None)
    finding = VanishingGradient().check(*build(**case))
    assert (finding.severity if finding else None) == expected
    if finding:
        assert finding.layers == ("words",)
        assert "80% of the indices repeat the one before" in finding.message


def sigmoids(spread: float, gradient: float, size: float = 4.0) -> dict[str, Any]:
    """Six hidden layers of 16 sigmoids: spread of the last ÷ first one, gradient of the first ÷ last layer."""
    layers = [LayerInfo(f"fc{i}", "dense", "sigmoid", 16, 272) for i in range(6)]
    return {
        "layers": [*layers, LayerInfo("out", "dense", "linear", 1, 17, hidden=False)],
        "table": {
            "activation_spread": [spread ** (i / 5) for i in range(6)] + [1.0],
            "grad_norm": [gradient ** (1 - i / 6) for i in range(7)],
            "weight_norm": size,
            "dead_units": np.nan,
        },
    }


REST: dict[str, Any] = {"losses": lambda t: 0.5, "steps": 400}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(STUCK | sigmoids(1e-4, 5e-3), "error", id="the signal has faded"),
        pytest.param(STUCK | sigmoids(0.5, 1e-4), "error", id="large gradients, the first 1e-4 of the last"),
        pytest.param(STUCK | sigmoids(1e-4, 5e-3) | {"steps": 12}, "warning", id="young"),
        pytest.param(STUCK | sigmoids(0.5, 5e-3), None, id="neither has faded"),
        pytest.param(STUCK | sigmoids(1e-4, 5e-3, size=0.2), None, id="tiny weights: the initializer"),
        pytest.param(REST | sigmoids(1e-4, 0.1) | {"scalars": {"accuracy": 0.8}}, "error", id="at rest, poor"),
        pytest.param(REST | sigmoids(1e-4, 0.1) | {"scalars": {"accuracy": 0.88}}, "warning", id="at rest, fair"),
        pytest.param(REST | sigmoids(1e-4, 0.1) | {"scalars": {"accuracy": 0.97}}, None, id="at rest, good"),
        pytest.param(REST | sigmoids(0.1, 0.1) | {"scalars": {"accuracy": 0.8}}, None, id="at rest, no fading"),
    ],
)
def test_stacked_sigmoids_shrink_signal_and_gradient(
    build: Callable[..., Any], case: dict[str, Any], expected: str | None
) -> None:
    finding = VanishingGradient().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_long_plateau_is_reported_at_the_end(build: Callable[..., Any]) -> None:
    case = sigmoids(1e-4, 1e-6)
    start, now = case["table"]["grad_norm"], sigmoids(1e-4, 0.5)["table"]["grad_norm"]
    case["table"]["grad_norm"] = lambda t: start if t < 500 else now
    case["table"]["activation_spread"] = lambda t: [1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1.0] if t < 500 else 0.7
    run = build(**case, losses=lambda t: 0.69 if t < 500 else 0.6, scalars={"accuracy": 0.6})
    finding = VanishingGradient().check(*run)
    assert finding is not None
    assert finding.severity is Severity.ERROR


def test_zero_gradients_in_all_layers_have_low_confidence(build: Callable[..., Any]) -> None:
    faded, zero = (VanishingGradient().check(*build(table=t, **STUCK)) for t in (FADED, {"grad_norm": 0.0}))
    assert faded is not None
    assert zero is not None
    assert zero.confidence < faded.confidence


def test_names_layers_with_vanished_gradient_in_forward_order(build: Callable[..., Any]) -> None:
    finding = VanishingGradient().check(*build(table=FADED, **STUCK))
    assert finding is not None
    assert finding.layers == ("fc1", "fc2")
    assert finding.evidence["ratio"] == pytest.approx(1e-7)
    assert "fc1" in finding.message


def test_normalization_frozen_and_embedding_layers_are_ignored(build: Callable[..., Any]) -> None:
    extra = [
        LayerInfo("words", "embedding", None, 8, 80),
        LayerInfo("bn", "norm", None, 16, 32),
        LayerInfo("old", "dense", "relu", 16, 0, frozen=True),
    ]
    base = list(build()[0].layers)
    table = {"grad_norm": [1e-9, 1e-9, np.nan, 0.3, 0.3, 0.3], "dead_units": 0.0}
    assert VanishingGradient().check(*build(layers=extra + base, table=table, **STUCK)) is None


def test_early_vanishing_phase_leaves_the_window(build: Callable[..., Any]) -> None:
    table = {"grad_norm": lambda t: [1e-9, 1e-5, 1e-2] if t < 200 else [0.3, 0.3, 0.3]}
    assert VanishingGradient().check(*build(table=table, **STUCK)) is None


def test_late_onset_is_detected(build: Callable[..., Any]) -> None:
    table = {"grad_norm": lambda t: [0.3, 0.3, 0.3] if t < 200 else [1e-9, 1e-5, 1e-2]}
    assert VanishingGradient().check(*build(table=table, **STUCK)) is not None


def test_regression_is_judged_by_its_error(build: Callable[..., Any]) -> None:
    case = {"targets": "real", "loss": "mse", "table": FADED, "losses": lambda t: 1.0}
    finding = VanishingGradient().check(*build(scalars={"squared_error": 1.0}, **case))
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert VanishingGradient().check(*build(scalars={"squared_error": 0.1}, **case)) is None


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_ratio_is_independent_of_gradient_scale(build: Callable[..., Any], scale: float) -> None:
    table = {"grad_norm": [scale * g for g in FADED["grad_norm"]]}
    finding = VanishingGradient().check(*build(table=table, **STUCK))
    assert finding is not None
    assert finding.evidence["ratio"] == pytest.approx(1e-7)


def test_thresholds_are_monotone(build: Callable[..., Any]) -> None:
    run = build(table=FADED, **STUCK)
    reported = [VanishingGradient(ratio=ratio).check(*run) is not None for ratio in (1e-9, 1e-8, 1e-5, 1e-3)]
    assert reported == sorted(reported)
    assert reported == [False, False, True, True]


def test_must_last_for_the_required_epochs(build: Callable[..., Any]) -> None:
    run = build(table={"grad_norm": lambda t: [0.3] * 3 if t < 500 else [1e-9, 1e-5, 1e-2]}, **STUCK)
    assert VanishingGradient(epochs=2).check(*run) is not None
    assert VanishingGradient(epochs=30).check(*run) is None
    history, context = run
    assert VanishingGradient(epochs=31).check(history, replace(context)) is None


def test_message_on_exactly_zero_gradients(build: Callable[..., Any]) -> None:
    finding = VanishingGradient().check(*build(**STUCK, table={"grad_norm": [0.0, 0.0, 1e-2]}))
    assert finding is not None
    assert finding.message.startswith("The gradient norm of layer fc1 is exactly zero, that of layer out is 0.01, and")
