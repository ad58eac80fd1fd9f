"""Networks that a constant prediction or a simple model beats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from autotrainer.records.findings import Finding, Severity
from autotrainer.rules.worse_than_simple_model import WorseThanSimpleModel

SIMPLE = {
    "linear_score": 0.9, "kernel_score": 0.85, "neighbour_score": 0.8, "tree_score": 0.7, "trivial_score": 0.5,
    "held_out_score": 0.7, "held_out_rows": 200.0, "simple_gap": 0.2, "simple_gap_error": 0.03,
}  # fmt: skip
OUTCOME = {
    "above_constant": 1.0, "metric_score": 0.7, "constant_score": 0.5, "judged_rows": 200.0, "judged_in_training": 0.0
}  # fmt: skip


@pytest.fixture
def check(build: Callable[..., Any]) -> Callable[..., Finding | None]:
    history, context = build()

    def check(**facts: float) -> Finding | None:
        return WorseThanSimpleModel().check(history, replace(context, asked=facts))

    return check


@pytest.mark.parametrize(
    ("gap", "error", "severity"),
    [
        (0.2, 0.03, Severity.ERROR),
        (0.1, 0.03, Severity.ERROR),
        (0.07, 0.02, Severity.WARNING),
        (0.03, 0.005, Severity.INFO),
        (0.2, 0.09, None),
        (-0.1, 0.01, None),
        (float("nan"), 0.01, None),
    ],
)
def test_gap_must_exceed_its_noise(check: Callable[..., Any], gap: float, error: float, severity: Severity) -> None:
    finding = check(**SIMPLE | OUTCOME | {"simple_gap": gap, "simple_gap_error": error})
    assert (None if finding is None else finding.severity) is severity


def test_message_has_both_scores(check: Callable[..., Any]) -> None:
    finding = check(**SIMPLE, **OUTCOME)
    assert finding.message == (
        "A linear model does better on the same 200 held-out rows: it scores 0.9, the model 0.7."
    )
    assert finding.evidence["simple_gap"] == 0.2


def test_level_of_a_constant_prediction_is_an_error(check: Callable[..., Any]) -> None:
    finding = check(**OUTCOME | {"above_constant": 0.0, "metric_score": 0.51})
    assert finding.severity is Severity.ERROR
    assert "on 200 validation rows its score is 0.51, that of the best constant prediction 0.5" in finding.message
    with_simple = check(**SIMPLE, **OUTCOME | {"above_constant": 0.0, "metric_score": 0.51})
    assert with_simple.message == f"{finding.message} A linear model reaches 0.9 on 200 held-out rows."


def test_loss_without_a_known_constant_prediction(check: Callable[..., Any]) -> None:
    finding = check(above_constant=0.0, metric_score=1.5, permuted_loss=1.49, judged_rows=80.0)
    assert finding.severity is Severity.ERROR
    assert "no lower than if the inputs of each row were those of another one (1.49)" in finding.message


def test_judgement_on_training_rows_is_a_fact(check: Callable[..., Any]) -> None:
    finding = check(**OUTCOME | {"judged_in_training": 1.0, "judged_rows": 4.0, "metric_score": 1.0})
    assert finding.severity is Severity.INFO
    assert "too few validation rows" in finding.message
    assert "on 4 training rows" in finding.message


def test_nothing_is_said_without_facts(check: Callable[..., Any]) -> None:
    assert check() is None
    assert check(**OUTCOME) is None


LINEAR: dict[str, Any] = {"accuracy": 0.6, "linear_score": 0.9, "linear_gain": 0.3, "linear_rows": 8.0}
HELD_OUT = {"val_accuracy": lambda epoch: 0.6}


@pytest.mark.parametrize(
    ("options", "severity"),
    [
        pytest.param({"finished": True}, Severity.ERROR, id="at the end"),
        pytest.param({"planned_epochs": 40}, Severity.ERROR, id="a flat loss late in the schedule"),
        pytest.param({"planned_epochs": None}, Severity.WARNING, id="length unknown"),
        pytest.param({"planned_epochs": 200}, None, id="early"),
        pytest.param({"losses": lambda step: 2 - step / 600}, None, id="the loss still falls"),
        pytest.param({"scalars": {"linear_gain": 0.07}, "finished": True}, None, id="small gap"),
        pytest.param({"scalars": {"linear_gain": -0.2}, "finished": True}, None, id="better than the linear model"),
        pytest.param({"scalars": {"linear_rows": 1.0}, "finished": True}, None, id="few rows"),
        pytest.param(
            {"scalars": {"linear_gain": lambda step: 3.0 * (step % 50 == 0) - 0.1}, "finished": True}, None, id="noise"
        ),
        pytest.param({"dropout": 0.5, "finished": True}, None, id="dropout"),
        pytest.param({"dropout": 0.5, "epochs": HELD_OUT, "finished": True}, Severity.ERROR, id="also in validation"),
    ],
)
def test_network_is_compared_with_a_linear_model(
    build: Callable[..., Any], options: dict[str, Any], severity: Severity | None
) -> None:
    scalars = LINEAR | options.pop("scalars", {})
    planned = {"planned_epochs": 60, "losses": lambda step: 0.5} | options
    finding = WorseThanSimpleModel().check(*build(scalars=scalars, **planned))
    assert (None if finding is None else finding.severity) is severity
    if finding is not None:
        assert "it scores 0.9, the network 0.6" in finding.message
