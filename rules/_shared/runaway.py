"""Signs of weights that run away. Healthy trainings show them at no time, so that they need little of the schedule."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.rules._shared.outcome import Outcome
from autotrainer.rules._shared.skill import targets_growth
from autotrainer.rules._shared.steps import Steps
from autotrainer.rules._shared.trends import blocks

__all__ = ["HEAVY", "coasting", "loss_rise", "sharpness"]

HEAVY = 0.95
"""Momentum from which it is named: the usual 0.9 adds up ten steps, this one twenty (Sutskever et al. 2013)."""

_FIRST_LOSSES = 9
"""Losses from the first on that tell the curvature."""

_STEADY = 2.0
"""Largest ratio of the factors by which a loss grows in a quadratic valley."""

_LEAST = 36
"""Losses from which their level is known."""

_LATE, _SMOOTH = 4, 3
"""Parts of the run, of 24, whose mean is the present level; and those that the best level is the mean of."""

_SURE = 3.0
"""Standard errors that a rise must exceed."""

_WHOLE = 0.5
"""Steps that momentum adds up ÷ steps of the schedule from which nothing damps it before the end."""


def loss_rise(history: RunHistory) -> float:
    """Return the present loss ÷ its best level so far, where it has risen beyond the noise of batches; else 1.

    Losses around or below zero have no level that this could be told of. Targets that grow make larger losses.
    """
    losses = history.losses[1]
    losses = losses[np.isfinite(losses)]
    if len(losses) < _LEAST or losses.min() <= 0:
        return 1.0
    parts = blocks(np.arange(len(losses)), losses)[1]
    levels = np.convolve(parts, np.full(_SMOOTH, 1 / _SMOOTH), "valid")[: -_LATE + 1]
    best, now = float(levels.min()), float(parts[-_LATE:].mean())
    moves = np.diff(parts)
    noise = 1.48 * float(np.median(np.abs(moves - np.median(moves)))) / math.sqrt(2)
    if now - best <= _SURE * noise * math.sqrt(1 / _LATE + 1 / _SMOOTH):
        return 1.0
    return max(1.0, now / best / max(1.0, targets_growth(history)))


def coasting(context: TaskContext, result: Outcome, steps: Steps) -> float:
    """Return how far steps of the present size will carry the weights by the end, relative to their length.

    Zero where momentum is damped within the schedule: it adds up 1 ÷ (1 - momentum) steps. Where that is most of the
    schedule or more, each step goes on to the end in about its own direction, wherever the gradient points.
    """
    momentum = context.optimizer.momentum
    if context.optimizer.name != "sgd" or not HEAVY <= momentum < 1 or not steps.known:
        return 0.0
    memory = 1 / (1 - momentum)
    if not memory >= _WHOLE * result.planned:
        return 0.0
    return steps.typical * min(memory, result.planned - result.steps)


def sharpness(history: RunHistory, context: TaskContext) -> float:
    """Return rate × curvature, from a loss that grows by the same factor from step to step; NaN where it does not.

    Gradient descent on a quadratic multiplies the distance to the minimum by 1 - rate × curvature, the loss by the
    square of it: above 2 it diverges (Cohen et al., ICLR 2021, section 2), and 1 goes straight to the minimum.
    """
    steps, losses = (values[:_FIRST_LOSSES] for values in history.losses)
    if context.optimizer.name != "sgd" or len(losses) < 4 or (np.diff(steps) != 1).any():
        return math.nan
    factors = losses[1:] / losses[:-1]
    factors = factors[np.isfinite(factors)]
    if len(factors) < 3 or not factors.min() > 1 or factors.max() > _STEADY * factors.min():
        return math.nan
    return 1 + math.sqrt(float(np.median(factors)))
