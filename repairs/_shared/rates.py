"""Learning rates that suit an optimizer."""

from __future__ import annotations

import math

from autotrainer.records.task import TaskContext

__all__ = ["ADAPTIVE", "REACH", "suitable_rate"]

ADAPTIVE = ("adam", "adamw", "nadam", "adamax", "rmsprop", "adagrad", "adadelta")
"""Optimizers that divide by the size of past gradients."""

_USUAL = {"sgd": 1e-2, "adam": 1e-3, "adamw": 1e-3, "nadam": 1e-3, "adamax": 2e-3, "rmsprop": 1e-3}
REACH = 5.0
"""Distance that a rate should let the weights travel in a whole training ÷ their usual length."""


def suitable_rate(optimizer: str, context: TaskContext) -> float:
    """Return a learning rate for an optimizer and the length of the training.

    The step of an adaptive optimizer is about its learning rate (Kingma and Ba 2015, 1412.6980, section 2.1), so a
    weight can move about rate × steps in the whole training. The usual rate is raised, at most tenfold, where that
    reach would be less than 5, several times the size of usual weights.
    """
    usual = _USUAL[optimizer]
    if optimizer == "sgd" or not context.planned_steps:
        return usual
    rate = min(max(usual, REACH / context.planned_steps), 10 * usual)
    return float(f"{rate:.{1 if rate > usual else 2}g}") if math.isfinite(rate) else usual
