"""Which standard loss a custom one computes: its values, compared with known losses on the same rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import MAX_ROWS, Floats
from autotrainer.records.task import LossInfo, TaskContext

__all__ = ["with_identified_loss"]

_SAME = 1e-3
"""Largest relative difference between two computations of one loss: half precision leaves 5e-4, single precision
1e-6."""

_EXACT = 1e-4
"""The same for a binary cross-entropy: single precision and clipping of the logarithms leave less, another factor or
label smoothing more."""

_DECIDED = 0.01
"""Distance of a probability from one half from which it shows the form of the loss; for a logit, four times as much
(the slope of the logistic function there is a quarter). Every logistic loss is ln 2 at one half."""

_MIN_SAMPLES = 3
"""Fewest such samples, of which half must match: by chance, one in 20 does."""


def with_identified_loss(history: RunHistory, context: TaskContext) -> TaskContext:
    """Return the context with the loss that the values of a custom loss are those of.

    Args:
        history: Everything measured so far.
        context: The training's model, loss, optimizer and data.

    Returns:
        The context itself, unless its loss is a custom one and at least three sampled batches are those of a mean
        squared or absolute error, a binary cross-entropy or a cross-entropy over classes.
    """
    if not context.loss.own or len(history.steps) < _MIN_SAMPLES:
        return context
    with np.errstate(all="ignore"):  # measurements of broken trainings are infinite
        loss = _identify(history, context)
    return (
        context
        if loss is None
        else replace(context, loss=replace(loss, class_axis=context.loss.class_axis, identified=True))
    )


def _identify(history: RunHistory, context: TaskContext) -> LossInfo | None:
    decided = np.ones(len(history.steps), bool)
    if _matches(history, "squared_error", _SAME, decided):
        return LossInfo("The custom loss (a mean squared error)", "squared_error", "values")
    if _matches(history, "absolute_error", _SAME, decided):
        return LossInfo("The custom loss (a mean absolute error)", "absolute_error", "values")
    low, high = history.scalar("output_min"), history.scalar("output_max")
    of_logits = history.scalar("entropy_of_logits")
    of_logits = of_logits[np.isfinite(of_logits)]
    logits = bool(np.median(of_logits) > 0.5) if len(of_logits) else bool((low < 0).any() or (high > 1).any())
    form: Literal["logits", "probabilities"] = "logits" if logits else "probabilities"
    if logits:
        far = np.maximum(np.abs(low), np.abs(high)) >= 4 * _DECIDED
    else:
        far = np.maximum(np.abs(low - 0.5), np.abs(high - 0.5)) >= _DECIDED
    if any(_matches(history, name, _EXACT, far) for name in ("binary_entropy", "crossed_binary_entropy")):
        return LossInfo("The custom loss (a binary cross-entropy)", "binary_cross_entropy", form)
    if _matches(history, "cross_entropy", _SAME, decided):
        targets = "one_hot" if history.targets.one_hot else "index"
        return LossInfo("The custom loss (a cross-entropy)", "cross_entropy", form, targets)
    return None


def _matches(history: RunHistory, column: str, tolerance: float, decided: NDArray[np.bool_]) -> bool:
    """Return whether the loss equals a column in most of the batches that were copied whole."""
    size, known, loss = history.scalar("batch_size"), history.scalar(column), history.data_losses
    gap: Floats = np.abs(loss - known) / np.maximum(np.abs(loss), 1e-12)
    gap = gap[decided & (size >= 1) & (size <= MAX_ROWS) & np.isfinite(loss) & np.isfinite(gap)]
    return len(gap) >= _MIN_SAMPLES and bool(np.median(gap) <= tolerance)
