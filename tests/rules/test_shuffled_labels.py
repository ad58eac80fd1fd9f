"""Targets that belong to other rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.diagnostics.label_alignment import label_alignment
from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.data import ArrayData
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.task import LossInfo, TaskContext
from autotrainer.rules.shuffled_labels import ShuffledLabels

INPUTS = np.random.default_rng(0).normal(size=(400, 5))
LABELS = (INPUTS[:, 0] > 0).astype(np.int64) + (INPUTS[:, 1] > 0.5)
CLASSES = TaskContext(loss=LossInfo("ce", "cross_entropy", "logits", "index"), output_units=3, input_kind="values")
NUMBERS = TaskContext(loss=LossInfo("mse", "squared_error", "values"), output_units=1, input_kind="values")


@pytest.fixture
def check(build: Callable[..., Any]) -> Callable[..., Finding | None]:
    history, _ = build()

    def check(x: np.ndarray, y: np.ndarray, context: TaskContext = CLASSES) -> Finding | None:
        summary = DataSummary()
        summary.add_targets(y)
        facts = label_alignment(ArrayData(x, y), summary.targets, context, seed=0)
        return ShuffledLabels().check(history, replace(context, asked=facts))

    return check


@pytest.mark.parametrize(
    ("move", "words"),
    [
        (lambda y: np.roll(y, 1), "the targets of the next row"),
        (lambda y: np.roll(y, -1), "the targets of the previous row"),
        (lambda y: y[::-1], "the targets in reverse order"),
    ],
)
def test_moved_targets(check: Callable[..., Any], move: Callable[..., Any], words: str) -> None:
    for y, context in ((LABELS, CLASSES), (INPUTS[:, :1] * 3 + 1, NUMBERS)):
        finding = check(INPUTS, move(y), context)
        assert finding.severity is Severity.ERROR
        assert words in finding.message
        assert check(INPUTS, y, context) is None


def test_targets_shuffled_at_random_fit_nowhere(check: Callable[..., Any]) -> None:
    assert check(INPUTS, np.random.default_rng(1).permutation(LABELS)) is None


def test_neighbouring_rows_that_are_alike(check: Callable[..., Any]) -> None:
    time = np.sin(np.arange(400) / 20)
    assert check(np.c_[time, np.cos(np.arange(400) / 20)], time[:, None], NUMBERS) is None
    order = np.argsort(LABELS, kind="stable")
    assert check(INPUTS[order], LABELS[order]) is None


def test_rows_removed_at_random_hide_nothing(check: Callable[..., Any]) -> None:
    random = np.random.default_rng(2)
    x, kept = random.normal(size=(1200, 5)), np.sort(random.permutation(1200)[:960])
    assert check(x[kept], np.roll(x[:, 0] > 0, 1)[kept].astype(np.int64), replace(CLASSES, output_units=2)) is not None


def test_unsuitable_data(check: Callable[..., Any]) -> None:
    assert check(INPUTS[:40], LABELS[:40]) is None
    assert check(INPUTS, np.zeros(400, np.int64)) is None
