"""Signs of a learning rate that makes weights or loss run away; healthy trainings never show them, even early on."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.rules._shared.outcome import Outcome
from autotrainer.rules._shared.skill import targets_growth
from autotrainer.rules._shared.steps import Steps
from autotrainer.rules._shared.trends import blocks

__all__ = ["HIGH_MOMENTUM", "loss_rise", "momentum_travel", "sharpness"]

HIGH_MOMENTUM = 0.95
"""Momentum from which a message names it: the usual 0.9 sums ten steps, this one twenty (Sutskever et al. 2013)."""

_FIRST_LOSSES = 9
"""Number of losses at the start from which the curvature is estimated."""

_STEADY = 2.0
"""Largest ratio between the factors of growth from step to step that still counts as one constant factor."""

_MIN_LOSSES = 36
"""Fewest losses that give a level."""

_LATE, _SMOOTH = 4, 3
"""Blocks, of 24 in the run, that are averaged for the present level, and for the best level."""

_SIGNIFICANT = 3.0
"""Standard errors that a rise must exceed."""

_UNDAMPED = 0.5
"""Steps that momentum sums ÷ steps of the schedule from which it is not damped before the end."""


def loss_rise(history: RunHistory) -> float:
    """Return the present loss ÷ its best level so far, if it has risen beyond the noise of batches; else 1.

    Losses at or below zero have no such ratio: 1. Growth of the targets is divided out.
    """
    losses = history.losses[1]
    losses = losses[np.isfinite(losses)]
    if len(losses) < _MIN_LOSSES or losses.min() <= 0:
        return 1.0
    parts = blocks(np.arange(len(losses)), losses)[1]
    levels = np.convolve(parts, np.full(_SMOOTH, 1 / _SMOOTH), "valid")[: -_LATE + 1]
    best, now = float(levels.min()), float(parts[-_LATE:].mean())
    moves = np.diff(parts)
    noise = 1.48 * float(np.median(np.abs(moves - np.median(moves)))) / math.sqrt(2)
    if now - best <= _SIGNIFICANT * noise * math.sqrt(1 / _LATE + 1 / _SMOOTH):
        return 1.0
    return max(1.0, now / best / max(1.0, targets_growth(history)))


def momentum_travel(context: TaskContext, result: Outcome, steps: Steps) -> float:
    """Return how far steps of the present size will move the weights by the end of the schedule ÷ their norm.

    Zero if momentum is damped within the schedule: it sums 1 ÷ (1 - momentum) steps. If that is most of the schedule
    or more, every step continues to the end in about its own direction, whatever later gradients say.
    """
    momentum = context.optimizer.momentum
    if context.optimizer.name != "sgd" or not HIGH_MOMENTUM <= momentum < 1 or not steps.known:
        return 0.0
    memory = 1 / (1 - momentum)
    if not memory >= _UNDAMPED * result.planned:
        return 0.0
    return steps.typical * min(memory, result.planned - result.steps)


def sharpness(history: RunHistory, context: TaskContext) -> float:
    """Return learning rate × curvature, from a loss that grows by a constant factor from step to step; else NaN.

    Gradient descent on a quadratic multiplies the distance to the minimum by 1 - rate × curvature, and the loss by its
    square: above 2 it diverges (Cohen et al., ICLR 2021, section 2), and 1 reaches the minimum in one step.
    """
    steps, losses = (values[:_FIRST_LOSSES] for values in history.losses)
    if context.optimizer.name != "sgd" or len(losses) < 4 or (np.diff(steps) != 1).any():
        return math.nan
    factors = losses[1:] / losses[:-1]
    factors = factors[np.isfinite(factors)]
    if len(factors) < 3 or not factors.min() > 1 or factors.max() > _STEADY * factors.min():
        return math.nan
    return 1 + math.sqrt(float(np.median(factors)))
