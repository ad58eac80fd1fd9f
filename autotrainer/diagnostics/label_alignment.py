"""Whether the targets belong to other rows: whether those of neighbouring rows, or in reverse order, fit better."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from autotrainer.diagnostics.baseline_models import TabularProblem, simple_operations
from autotrainer.diagnostics.baseline_problem import features, make_problem, steps_per_row, target_columns
from autotrainer.records.data import ArrayData, arrays_of, finite_rows
from autotrainer.records.signals import Floats
from autotrainer.records.task import TargetSummary, TaskContext

__all__ = ["alignment_rows", "label_alignment"]

_ROWS, _MIN_ROWS = 1000, 60
"""Maximum rows that are read, in their order, and fewest: half of them to fit models on, half to score them on."""
_WORK = 4_000_000_000
"""Multiply-adds that all alignments may take."""
_LAGS = (1, -1)
_ALIGNMENTS = len(_LAGS) + 2
"""The targets of each row, those of its neighbours, and those in reverse order."""


def alignment_rows(
    data: ArrayData, targets: TargetSummary, context: TaskContext, limit: float = _WORK
) -> tuple[int, int]:
    """Return how many rows can be compared within some work, and the work; zeros if the data are too few or too wide.

    Args:
        data: Training data.
        targets: Summary of their targets.
        context: The training.
        limit: Multiply-adds that it may take.
    """
    one_each = context.kind(targets) in ("multiclass", "binary") and steps_per_row(data.targets, targets) == 1
    if not (one_each or context.kind(targets) == "regression"):
        return 0, 0
    first = features(data.take(slice(0, 2)).inputs, tokens=context.input_kind == "index")  # all may be large
    if first is None:
        return 0, 0
    rows, columns = min(data.rows, _ROWS), target_columns(data.targets, targets, context)
    while rows >= _MIN_ROWS:
        half = (rows + 1) // 2
        work = _ALIGNMENTS * simple_operations(half, half, first.shape[1], columns)
        if work <= limit:
            return rows, work
        rows = rows * 2 // 3
    return 0, 0


def label_alignment(
    data: ArrayData, targets: TargetSummary, context: TaskContext, seed: int, limit: float = _WORK
) -> dict[str, float]:
    """Score a linear model and nearest neighbours with the targets as they are, and with those of other rows.

    Args:
        data: Training data in their order.
        targets: Summary of their targets.
        context: The training.
        seed: Seed of the split into halves.
        limit: Multiply-adds that it may take.

    Returns:
        Facts by name: see `FACTS`; nothing if the data do not suit these models.
    """
    most, _ = alignment_rows(data, targets, context, limit)
    if not most:
        return {}
    rows = data.take(slice(0, 2 * most))
    rows = rows.take(finite_rows(rows)[:most])
    if rows.rows < _MIN_ROWS or _windowed(rows):  # the target of another row may be an input
        return {}
    own = _score(rows, targets, context, seed)
    others = {lag: _score(other, targets, context, seed) for lag, other in _alignments(rows)}
    scores = {lag: result for lag, result in others.items() if result is not None}
    if own is None or not scores:
        return {}
    lag = max(scores, key=lambda lag: scores[lag][0])
    return {
        "aligned_score": own[0],
        "misaligned_score": scores[lag][0],
        "misaligned_lag": float(lag),
        "alignment_trivial_score": scores[lag][1],
        "alignment_rows": float(scores[lag][2]),
    }


def _alignments(rows: ArrayData) -> Iterator[tuple[int, ArrayData]]:
    """Yield rows with the targets of others: by the lag, 0 for the reverse order."""
    for lag in _LAGS:
        inputs, others = (slice(0, -lag), slice(lag, None)) if lag > 0 else (slice(-lag, None), slice(0, lag))
        yield lag, ArrayData(rows.take(inputs).inputs, rows.targets[others])
    yield 0, ArrayData(rows.inputs, rows.targets[::-1])


def _windowed(rows: ArrayData) -> bool:
    """Return whether the inputs are windows of a series: each row holds the values of the one before, moved by one."""
    for part in map(np.asarray, arrays_of(rows.inputs)):
        if part.ndim < 2 or part.shape[1] < 2:
            continue
        if (part[:-1, 1:] == part[1:, :-1]).all() or (part[:-1, :-1] == part[1:, 1:]).all():
            return True
    return False


def _score(rows: ArrayData, targets: TargetSummary, context: TaskContext, seed: int) -> tuple[float, float, int] | None:
    """Return the better score of the two models on one half of the rows, the trivial score, and the number of rows."""
    order: NDArray[np.int64] = np.random.default_rng(seed).permutation(rows.rows)
    train, held_out = (rows.take(half) for half in np.array_split(order, 2))
    problem = make_problem(train, held_out, targets, context)
    if problem is None or problem.code or not len(problem.held_inputs):
        return None
    models = (TabularProblem.ridge, TabularProblem.neighbours)
    scores: list[Floats] = [problem.score_rows(model(problem)) for model in models]
    return max(float(score.mean()) for score in scores), problem.trivial, len(problem.held_inputs)
