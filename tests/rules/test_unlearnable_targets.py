from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from autotrainer.records.findings import Severity
from autotrainer.records.task import TargetSummary
from autotrainer.rules.unlearnable_targets import UnlearnableTargets

ONES = TargetSummary(600, 600, 2, 1, False, True, 1.0, 1.0, 1.0, 0.0, values=(1.0,), classes=1, majority=1.0)
SEVENS = replace(ONES, minimum=0.7, maximum=0.7, mean=0.7, integral=False, values=(), classes=0)
RATED = replace(SEVENS, variance=1e-34)
VECTORS = replace(SEVENS, width=4, minimum=-1.0, maximum=3.0)
FEW = replace(SEVENS, rows=10)
MANY = replace(SEVENS, rows=2000)
DIRECT: dict[str, Any] = {"finished": True, "scalars": {"direct_loss": 1.0}}

ALL, SOME = {"constant_targets": 1.0}, {"constant_targets": 0.0}

CONSTANT = [
    pytest.param(ONES, "bce_logits", ALL, {}, Severity.ERROR, id="one class in all data"),
    pytest.param(SEVENS, "mse", ALL, {}, Severity.ERROR, id="one number in all data"),
    pytest.param(RATED, "mse", {}, {"train_rows": 600}, Severity.ERROR, id="all rows were sampled; rounding"),
    pytest.param(VECTORS, "mse", {}, {"train_rows": 600}, Severity.ERROR, id="one vector"),
    pytest.param(SEVENS, "mse", {}, {}, Severity.WARNING, id="the rest may differ"),
    pytest.param(MANY, "mse", {}, DIRECT, Severity.ERROR, id="the output itself is compared with it in a whole run"),
    pytest.param(MANY, "mse", {}, DIRECT | {"finished": False}, Severity.WARNING, id="the run goes on"),
    pytest.param(MANY, "mse", {}, {"finished": True}, Severity.WARNING, id="residuals"),
    pytest.param(SEVENS, "mse", SOME, {}, None, id="the rest does differ"),
    pytest.param(ONES, "bce_logits", {}, {}, None, id="adversarial generator"),
    pytest.param(SEVENS, "custom", ALL, {}, None, id="a loss that may not use them"),
    pytest.param(SEVENS, "none", ALL, {}, None, id="loss unknown"),
    pytest.param(SEVENS, "mse", ALL, {"train_rows": 1}, None, id="a single row"),
    pytest.param(FEW, "mse", {}, {"train_rows": 10}, None, id="ten rows"),
    pytest.param("binary", "bce_logits", SOME, {}, None, id="two classes"),
    pytest.param("real", "mse", {}, {}, None, id="numbers"),
    pytest.param("one_hot", "cce", {}, {}, None, id="one-hot"),
]


@pytest.mark.parametrize(("targets", "loss", "facts", "context", "severity"), CONSTANT)
def test_constant_targets(
    build: Callable[..., Any], targets: Any, loss: str, facts: dict[str, float], context: Any, severity: Severity | None
) -> None:
    finding = UnlearnableTargets().check(*build(targets=targets, loss=loss, asked=facts, **context))
    assert (None if finding is None else finding.severity) == severity


def _facts(train: float, held_out: float, linear: float, trivial: float = 0.5, rows: float = 400) -> dict[str, float]:
    return {
        "train_score": train,
        "held_out_score": held_out,
        "linear_score": linear,
        "neighbour_score": trivial - 0.02,
        "trivial_score": trivial,
        "held_out_rows": rows,
    }


SCORED = [
    pytest.param(_facts(0.98, 0.51, 0.52), Severity.ERROR, id="memorized"),
    pytest.param(_facts(0.99, 0.12, 0.11, 0.1), Severity.ERROR, id="ten classes memorized"),
    pytest.param(_facts(0.95, -0.3, 0.01, 0.0), Severity.ERROR, id="numbers memorized"),
    pytest.param(_facts(0.55, 0.49, 0.51), Severity.WARNING, id="nothing learned"),
    pytest.param(_facts(0.98, 0.51, 0.93), None, id="a linear model works"),
    pytest.param(_facts(0.98, 0.51, 0.6), None, id="a linear model works a little"),
    pytest.param(_facts(0.98, 0.75, 0.5), None, id="the network works"),
    pytest.param(_facts(0.98, 0.51, 0.5, rows=40), None, id="too few rows"),
    pytest.param(_facts(0.8, 0.2, 0.3, 0.0), None, id="numbers, somewhat predictable"),
    pytest.param(_facts(0.98, float("nan"), 0.5), None, id="network not scored"),
]


@pytest.mark.parametrize(("facts", "severity"), SCORED)
def test_no_simple_model(build: Callable[..., Any], facts: dict[str, float], severity: Severity | None) -> None:
    finding = UnlearnableTargets().check(*build(asked=facts))
    assert (None if finding is None else finding.severity) == severity


WATCHED = {"linear_score": 0.5, "trivial_score": 0.5, "held_out_rows": 400.0}


@pytest.mark.parametrize(
    ("case", "severity"),
    [
        pytest.param({"epochs": {"val_accuracy": lambda e: 0.5}}, Severity.ERROR, id="memorized"),
        pytest.param({"epochs": {"val_accuracy": lambda e: 0.8}}, None, id="the network works"),
        pytest.param({"scalars": {"accuracy": 0.5}, "losses": lambda t: 0.69}, Severity.WARNING, id="nothing learned"),
        pytest.param({}, None, id="learned, validation unknown"),
        pytest.param({"epochs": {"val_accuracy": lambda e: 0.5}, "finished": False}, None, id="still trains"),
    ],
)
def test_watched_training(build: Callable[..., Any], case: dict[str, Any], severity: Severity | None) -> None:
    finding = UnlearnableTargets().check(*build(**{"finished": True, "asked": WATCHED} | case))
    assert (None if finding is None else finding.severity) == severity


def test_message_has_the_numbers(build: Callable[..., Any]) -> None:
    finding = UnlearnableTargets().check(*build(asked=_facts(0.98, 0.51, 0.52)))
    assert finding is not None
    for part in ("0.98", "0.51", "400 held-out rows", "a linear model, scores 0.52", "trivial predictor 0.5"):
        assert part in finding.message
