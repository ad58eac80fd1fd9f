"""Networks that a constant prediction or a simple model beats."""

from __future__ import annotations

import math
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


def test_most_of_a_small_lead_is_an_error(check: Callable[..., Any]) -> None:
    rare = {
        "linear_score": 0.73,
        "kernel_score": 0.7,
        "neighbour_score": 0.7,
        "trivial_score": 0.62,
        "held_out_score": 0.66,
    }
    assert check(**SIMPLE | OUTCOME | rare | {"simple_gap": 0.07, "simple_gap_error": 0.02}).severity is Severity.ERROR


def test_message_has_both_scores(check: Callable[..., Any]) -> None:
    finding = check(**SIMPLE, **OUTCOME)
    assert finding.message == (
        "A linear model does better on the same 200 held-out rows: it scores 0.9, the model 0.7."
    )
    assert finding.evidence["simple_gap"] == 0.2


def test_message_names_numbers_that_are_categories(check: Callable[..., Any]) -> None:
    facts = {"category_columns": 1.0, "category_column": 5.0, "category_levels": 20.0}
    finding = check(**SIMPLE, **OUTCOME, **facts)
    assert "It takes the 20 whole numbers in column 5 of the inputs as categories, without an order" in finding.message
    assert finding.evidence["category_column"] == 5
    assert "and 2 more as categories" in check(**SIMPLE, **OUTCOME, **facts | {"category_columns": 3.0}).message


def test_message_says_that_the_network_has_seen_the_rows(check: Callable[..., Any]) -> None:
    finding = check(**SIMPLE, **OUTCOME, simple_crossed=1.0)
    assert finding.message == (
        "A linear model does better on 200 training rows that it has not seen (cross-validation) than the model, which "
        "was trained on them: it scores 0.9, the model 0.7."
    )


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


def test_loss_that_has_not_fallen(check: Callable[..., Any]) -> None:
    finding = check(above_constant=0.0, metric_score=76.8, first_loss=1.9)
    assert finding.severity is Severity.ERROR
    assert finding.message == (
        "The loss ended at 76.8, no lower than at the first step (1.9): nothing has been learned."
    )


def test_judgement_on_training_rows_is_a_fact(check: Callable[..., Any]) -> None:
    finding = check(**OUTCOME | {"judged_in_training": 1.0, "judged_rows": 4.0, "metric_score": 1.0})
    assert finding.severity is Severity.INFO
    assert "too few validation rows" in finding.message
    assert "on 4 training rows" in finding.message


def test_nothing_is_said_without_facts(check: Callable[..., Any]) -> None:
    assert check() is None
    assert check(**OUTCOME) is None


WATCHED = {"linear_score": 0.95, "tree_score": 0.6, "trivial_score": 0.5, "held_out_rows": 250.0, "simple_rows": 500.0}
CHANCE = {"scalars": {"accuracy": 0.7}, "losses": lambda t: 0.55}


def falling(step: int) -> float:
    return 0.6 + 0.4 * math.exp(-step / 50) + 0.01 * (step % 7)


OWN: dict[str, Any] = {"targets": "real", "loss": "custom", "losses": falling}
RANKS = OWN | {"scalars": {"squared_error": lambda t: 0.3 + 0.01 * (t % 5)}}
POOR_R2 = {"targets": "real", "loss": "mse", "losses": lambda t: 0.6, "scalars": {"squared_error": 0.6}}


@pytest.mark.parametrize(
    ("case", "facts", "expected"),
    [
        pytest.param(CHANCE, {}, "error", id="far below a linear model"),
        pytest.param(CHANCE, {"linear_score": 0.78}, "info", id="below a linear model"),
        pytest.param(CHANCE, {"linear_score": 0.85, "held_out_rows": 15.0}, None, id="by chance"),
        pytest.param(CHANCE | {"finished": False}, {}, None, id="still trains"),
        pytest.param(CHANCE | {"managed": True}, {}, None, id="managed: compared on the same rows"),
        pytest.param({"scalars": {"accuracy": 0.94}}, {}, None, id="as good"),
        pytest.param(
            {"scalars": {"accuracy": lambda t: 0.5 + 0.45 * (t / 600) ** 4}}, {}, None, id="as good in the last steps"
        ),
        pytest.param(CHANCE | {"epochs": {"val_accuracy": lambda e: 0.93}}, {}, None, id="as good in validation"),
        pytest.param(POOR_R2, {"trivial_score": 0.0}, "error", id="R² far below"),
        pytest.param(POOR_R2, {"trivial_score": 0.0, "linear_score": 0.41, "tree_score": 0.3}, None, id="R² as good"),
        pytest.param(
            OWN | {"scalars": {"squared_error": lambda t: falling(t) ** 2}},
            {"trivial_score": 0.0},
            "error",
            id="own loss of a distance",
        ),
        pytest.param(
            OWN | {"scalars": {"squared_error": lambda t: 0.3 + 0.01 * (t % 5)}},
            {"trivial_score": 0.0},
            None,
            id="ranks",
        ),
        pytest.param({"loss": "none", "targets": "index"}, {}, None, id="outcome unknown"),
        pytest.param(CHANCE | {"dropout": 0.5}, {}, None, id="dropout"),
        pytest.param(
            CHANCE | {"dropout": 0.5, "epochs": {"val_accuracy": lambda e: 0.7}}, {}, "error", id="dropout, validation"
        ),
    ],
)
def test_watched_training(
    build: Callable[..., Any], case: dict[str, Any], facts: dict[str, float], expected: str | None
) -> None:
    finding = WorseThanSimpleModel().check(*build(**{"finished": True, "asked": WATCHED | facts} | case))
    assert (finding.severity if finding else None) == expected
    if finding is not None and expected == "error":
        assert "linear model that was fitted on 500 sampled rows scores 0.95 on 250 other ones" in finding.message


@pytest.mark.parametrize(("accuracy", "expected"), [(0.75, "error"), (1.0, None)])
def test_truth_table(build: Callable[..., Any], accuracy: float, expected: str | None) -> None:
    facts = WATCHED | {"tree_score": 1.0, "simple_distinct": 4.0, "held_out_rows": 60.0}
    case = {"scalars": {"accuracy": accuracy}, "losses": lambda t: 0.35, "finished": True, "asked": facts}
    finding = WorseThanSimpleModel().check(*build(**case))
    assert (finding.severity if finding else None) == expected
    if finding is not None:
        assert "fitted on the 4 different rows of the data scores 1 on them" in finding.message


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [
        pytest.param(lambda t: 0.95 if t > 590 else 0.6, "error", id="few rows by chance"),
        pytest.param(lambda t: 0.95 if t > 450 else 0.6, None, id="the last quarter"),
    ],
)
def test_small_batches_show_the_end_together(
    build: Callable[..., Any], accuracy: Callable[[int], float], expected: str | None
) -> None:
    case = {"scalars": {"accuracy": accuracy, "batch_size": 4.0}, "losses": lambda t: 0.6, "finished": True}
    finding = WorseThanSimpleModel().check(*build(**case, asked=WATCHED))
    assert (finding.severity if finding else None) == expected
