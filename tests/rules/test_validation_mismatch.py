"""Validation rows that differ from training rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.monitoring.train_val_mismatch import validation_mismatch
from autotrainer.records.data import ArrayData
from autotrainer.records.findings import Finding, Severity
from autotrainer.rules.validation_mismatch import ValidationMismatch

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(500, 6)).astype(np.float32)
LABELS = RANDOM.integers(0, 5, 500)


@pytest.fixture
def check(build: Callable[..., Any]) -> Callable[..., Finding | None]:
    history, context = build()

    def check(x: Any, y: np.ndarray, held_x: Any, held_y: np.ndarray) -> Finding | None:
        facts = validation_mismatch(ArrayData(x, y), ArrayData(held_x, held_y))
        return ValidationMismatch().check(history, replace(context, asked=facts))

    return check


@pytest.mark.parametrize("targets", [LABELS, np.eye(5)[LABELS], LABELS[:, None], INPUTS[:, :1] ** 2], ids=str)
def test_random_splits_are_alike(check: Callable[..., Any], targets: np.ndarray) -> None:
    assert check(INPUTS[:400], targets[:400], INPUTS[400:], targets[400:]) is None
    assert check(INPUTS[:490], targets[:490], INPUTS[490:], targets[490:]) is None


@pytest.mark.parametrize("encode", [lambda y: y, lambda y: np.eye(5)[y]], ids=["indices", "one-hot"])
def test_split_of_sorted_rows_has_unseen_classes(check: Callable[..., Any], encode: Callable[..., Any]) -> None:
    order = np.argsort(LABELS, kind="stable")
    x, y = INPUTS[order], encode(LABELS[order])
    finding = check(x[:400], y[:400], x[400:], y[400:])
    assert finding.severity is Severity.ERROR
    assert "of the validation rows are of class 4 that no training row has" in finding.message
    assert finding.evidence["unseen_class_share"] > 0.9


@pytest.mark.parametrize("classes", [2, 5])
def test_split_of_sorted_rows_within_a_class(check: Callable[..., Any], classes: int) -> None:
    y = np.sort(LABELS % classes)
    first = int(np.flatnonzero(y == classes - 1)[0]) + 4
    x, rows = INPUTS, slice(first, first + 80)
    finding = check(x[:first], y[:first], x[rows], y[rows])
    assert finding.severity is Severity.ERROR
    assert "The validation rows are of one class" in finding.message


def test_a_rare_class_may_be_missing_by_chance(check: Callable[..., Any]) -> None:
    y = LABELS.copy()
    y[450] = 7
    assert check(INPUTS[:400], y[:400], INPUTS[400:], y[400:]) is None


@pytest.mark.parametrize("change", [lambda x: 255 * x, lambda x: x / 100, lambda x: x + 50])
def test_another_scale_is_an_error(check: Callable[..., Any], change: Callable[..., Any]) -> None:
    finding = check(INPUTS[:400], LABELS[:400], change(INPUTS[400:]), LABELS[400:])
    assert finding.severity is Severity.ERROR
    assert "another scale" in finding.message


def test_other_shares_of_classes_are_a_warning(check: Callable[..., Any]) -> None:
    rare = np.where(np.arange(100) % 10, 0, LABELS[400:])
    finding = check(INPUTS[:400], LABELS[:400], INPUTS[400:], rare)
    assert finding.severity is Severity.WARNING
    assert "the shares of their classes differ by" in finding.message


def test_other_targets_are_a_warning(check: Callable[..., Any]) -> None:
    time = np.linspace(0, 10, 500)
    finding = check(INPUTS[:400], time[:400], INPUTS[400:], time[400:])
    assert finding.severity is Severity.WARNING
    assert "the distributions of their targets differ by 100.0%" in finding.message


def test_data_that_can_not_be_compared_give_nothing() -> None:
    text = np.array(["a", "b"] * 20)
    assert validation_mismatch(ArrayData(INPUTS[:40], text), ArrayData(INPUTS[:40], text)).keys() <= {
        "validation_scale", "validation_offset", "shifted_feature", "feature_shift", "feature_shift_noise"
    }  # fmt: skip
    tokens = LABELS[:400].reshape(100, 4)
    facts = validation_mismatch(ArrayData(tokens, LABELS[:100]), ArrayData(tokens[:, :3] * 100, LABELS[:100]))
    assert "validation_scale" not in facts


NEVER = {"epochs": {"val_accuracy": lambda e: 0.0}}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(NEVER, "error", id="training rows are predicted"),
        pytest.param(NEVER | {"loss": "none", "scalars": {"accuracy": np.nan}}, "warning", id="only the loss is known"),
        pytest.param(NEVER | {"scalars": {"accuracy": 0.5}}, "warning", id="training rows are not predicted"),
        pytest.param(NEVER | {"losses": lambda t: 0.7}, None, id="nothing is learned"),
        pytest.param(NEVER | {"targets": "real", "loss": "mse"}, None, id="accuracy of numbers"),
        pytest.param({"epochs": {"val_accuracy": lambda e: 0.2 / (e + 1)}}, "error", id="hardly any is right"),
        pytest.param({"epochs": {"val_accuracy": lambda e: 0.2}}, None, id="some are right"),
        pytest.param(NEVER | {"steps": 70}, None, id="few evaluations"),
    ],
)
def test_validation_accuracy_far_below_chance(build: Callable[..., Any], case: Any, expected: str | None) -> None:
    finding = ValidationMismatch().check(*build(**case))
    assert (finding.severity if finding else None) == expected


FOUR_OF_FIVE: dict[str, Any] = {
    "targets": "index", "loss": "ce", "output_units": 5, "scalars": {"accuracy": 0.98},
    "epochs": {"val_accuracy": lambda epoch: 0.78}, "finished": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "severity"),
    [
        pytest.param({}, Severity.ERROR, id="a unit without rows"),
        pytest.param({"planned_epochs": None, "finished": False}, Severity.WARNING, id="length unknown"),
        pytest.param({"output_units": 4}, None, id="all units have rows"),
        pytest.param({"output_units": 90}, None, id="too few rows for so many units"),
        pytest.param({"output_units": 10}, None, id="most units are unused: an output of another task"),
        pytest.param({"epochs": {"val_accuracy": lambda epoch: 0.95}}, None, id="as good in validation"),
        pytest.param({"epochs": {}}, None, id="validation unknown"),
        pytest.param({"scalars": {"accuracy": 0.8}}, None, id="as bad in training"),
        pytest.param({"planned_epochs": 300, "finished": False}, None, id="early"),
    ],
)
def test_units_without_training_rows(
    build: Callable[..., Any], options: dict[str, Any], severity: Severity | None
) -> None:
    finding = ValidationMismatch().check(*build(**FOUR_OF_FIVE | options))
    assert (None if finding is None else finding.severity) is severity


@pytest.mark.parametrize(("different", "found"), [(np.nan, True), (4096.0, True), (100.0, True), (99.0, False)])
def test_repeated_rows_count_once(build: Callable[..., Any], different: float, found: bool) -> None:
    case = FOUR_OF_FIVE | {"scalars": {"accuracy": 0.98, "distinct_rows": different}}
    finding = ValidationMismatch().check(*build(**case))
    assert (finding is not None) is found
    assert finding is None or f"None of {np.fmin(different, 600):.0f} sampled" in finding.message
