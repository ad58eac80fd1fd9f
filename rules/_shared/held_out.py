"""Accuracy and skill on validation data in the last epochs."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.rules._shared.skill import (
    VALIDATION_NOISE,
    VALIDATION_ROWS,
    epoch_accuracies,
    held_out_losses,
    root_of_gain,
    trivial_score,
    trivial_squared_error,
)
from autotrainer.rules._shared.trends import wilson

__all__ = ["held_out_accuracy", "held_out_high", "held_out_skill", "uninformed_held_out"]

_HALF = 2
"""Fewest evaluations in the last half that show what is worth something on validation data."""


def held_out_accuracy(history: RunHistory, context: TaskContext, last: int = 3) -> float:
    """Return the median validation accuracy of the last epochs; NaN if unknown."""
    values = epoch_accuracies(history, context, "val_accuracy")[-last:]
    return float(np.median(values)) if len(values) else math.nan


def held_out_skill(history: RunHistory, context: TaskContext, last: int = 3) -> float:
    """Return the skill on validation data in the last epochs, on the scale of `Outcome.skill`; NaN if unknown.

    It is computed from the accuracy; in regression from the loss, if that is a mean squared error; for several labels,
    or if the accuracy is not reported, from a cross-entropy.
    """
    kind = context.kind(history.targets)
    losses = held_out_losses(history, context)[-last:]
    if kind == "regression":
        return 1 - float(np.median(losses)) / trivial_squared_error(history, context) if len(losses) else math.nan
    trivial = trivial_score(history, context)
    ambiguous = kind == "multilabel" and not context.managed
    if ambiguous or "val_accuracy" not in history.epoch_names:
        entropy = _entropy(history, context)
        return root_of_gain(float(np.median(losses)), entropy) if len(losses) and entropy > 0 else math.nan
    return (held_out_accuracy(history, context, last) - trivial) / (1 - trivial) if trivial < 1 else math.nan


def uninformed_held_out(history: RunHistory, context: TaskContext) -> bool:
    """Return whether validation losses in the last half of at least four are no better than the class frequencies.

    Cross-entropy is a proper score: by it, such predictions tell nothing about the classes, whichever is the largest.
    """
    losses, entropy = held_out_losses(history, context), _entropy(history, context)
    half = len(losses) // 2
    return half >= _HALF and entropy > 0 and float(np.median(losses[-half:])) >= entropy


def _entropy(history: RunHistory, context: TaskContext) -> float:
    """Return the cross-entropy of the class frequencies; NaN where the loss is not comparable with it."""
    targets, loss = history.targets, context.loss
    entropies = {"binary_cross_entropy": targets.column_entropy, "cross_entropy": targets.entropy}
    comparable = loss.standard and loss.reduction == "mean" and not loss.weighted
    return entropies.get(loss.family, math.nan) if comparable else math.nan


def held_out_high(history: RunHistory, context: TaskContext) -> float:
    """Return the upper end of the 90 % interval of skill on validation data, over the last half of the evaluations.

    NaN with fewer than four evaluations, or if the score there is unknown.
    """
    if context.kind(history.targets) in ("regression", "multilabel"):
        half = len(held_out_losses(history, context)) // 2
        return held_out_skill(history, context, half) + VALIDATION_NOISE if half >= _HALF else math.nan
    values = epoch_accuracies(history, context, "val_accuracy")
    half = len(values) // 2
    trivial = trivial_score(history, context)
    if half < _HALF or not trivial < 1:
        return math.nan
    high = wilson(min(1.0, max(0.0, float(np.mean(values[-half:])))), VALIDATION_ROWS, 1.64)[1]
    return (high - trivial) / (1 - trivial)
