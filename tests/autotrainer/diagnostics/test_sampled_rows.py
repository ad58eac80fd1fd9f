"""Simple models on rows that a watched training was measured on."""

from __future__ import annotations

import numpy as np

from autotrainer.diagnostics.sampled_rows import score_simple_models
from autotrainer.records.data import ArrayData
from autotrainer.records.task import LossInfo, TargetSummary, TaskContext

_CONTEXT = TaskContext(loss=LossInfo("MSELoss", "squared_error", "values"), output_units=1, input_kind="values")
_TARGETS = TargetSummary(300, 300, 2, 1, False, False, -3.0, 3.0, 0.0, 1.0)


def _rows(count: int) -> ArrayData:
    inputs = np.random.default_rng(0).normal(size=(count, 3))
    return ArrayData(inputs, inputs[:, :1] - inputs[:, 1:2])


def test_a_third_of_the_rows_is_held_out() -> None:
    facts = score_simple_models(_rows(300), _TARGETS, _CONTEXT)
    assert facts["held_out_rows"] == 100
    assert facts["simple_rows"] == 200
    assert facts["linear_score"] > 0.99
    assert facts["trivial_score"] == 0


def test_few_rows_say_nothing() -> None:
    assert score_simple_models(_rows(25), _TARGETS, _CONTEXT) == {}
