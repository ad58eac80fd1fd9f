"""Simple models on rows that a watched training was measured on."""

from __future__ import annotations

from collections.abc import Mapping

from autotrainer.diagnostics.baseline_comparison import BaselineComparison
from autotrainer.records.data import ArrayData
from autotrainer.records.task import TargetSummary, TaskContext
from autotrainer.training.missing_values import missing_code_facts

__all__ = ["score_simple_models"]

_WORK = 1e9
"""Multiply-adds that may be spent: a tenth of a second."""
_HELD_OUT = 3
"""One row in so many is held out: scores need rows as much as models do."""


def score_simple_models(rows: ArrayData, targets: TargetSummary, context: TaskContext) -> Mapping[str, float]:
    """Return the scores of simple models on sampled rows that they were not fitted on.

    Args:
        rows: Distinct training rows, in random order.
        targets: Summary of all targets.
        context: The training.

    Returns:
        Facts of `autotrainer.records.facts.FACTS`, also of numbers that stand for missing values; nothing if there are
        too few rows, or they do not suit such models.
    """
    count = rows.rows // _HELD_OUT
    if not count:
        return {}
    codes = missing_code_facts(rows)
    held_out, fitted = rows.take(slice(0, count)), rows.take(slice(count, None))
    comparison = BaselineComparison.fit(fitted, held_out, None, targets, context, _WORK)
    return codes if comparison is None else {**comparison.facts, **codes}
