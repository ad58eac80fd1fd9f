"""Accuracy and skill on validation data in the last epochs."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.rules._shared.skill import VALIDATION_NOISE, VALIDATION_ROWS, trivial_score, trivial_squared_error
from autotrainer.rules._shared.trends import wilson

__all__ = ["held_out_accuracy", "held_out_high", "held_out_skill"]


def held_out_accuracy(history: RunHistory, last: int = 3) -> float:
    """Return the median validation accuracy of the last epochs; NaN if unknown."""
    values = history.epochs("val_accuracy")[1][-last:]
    return float(np.median(values)) if len(values) else math.nan


def held_out_skill(history: RunHistory, context: TaskContext, last: int = 3) -> float:
    """Return the skill on validation data in the last epochs, on the scale of `Outcome.skill`; NaN if unknown.

    It is computed from the accuracy; in regression from the loss, if that is a mean squared error.
    """
    if context.kind(history.targets) == "regression":
        losses = history.epochs("val_loss")[1][-last:]
        return 1 - float(np.median(losses)) / trivial_squared_error(history, context) if len(losses) else math.nan
    trivial = trivial_score(history, context)
    return (held_out_accuracy(history, last) - trivial) / (1 - trivial) if trivial < 1 else math.nan


def held_out_high(history: RunHistory, context: TaskContext) -> float:
    """Return the upper end of the 90 % interval of skill on validation data, over the last half of the evaluations.

    NaN with fewer than four evaluations, or if the score there is unknown.
    """
    regression = context.kind(history.targets) == "regression"
    values = history.epochs("val_loss" if regression else "val_accuracy")[1]
    half = len(values) // 2
    if half < 2:
        return math.nan
    if regression:
        return held_out_skill(history, context, half) + VALIDATION_NOISE
    trivial = trivial_score(history, context)
    high = wilson(min(1.0, max(0.0, float(np.mean(values[-half:])))), VALIDATION_ROWS, 1.64)[1]
    return (high - trivial) / (1 - trivial) if trivial < 1 else math.nan
