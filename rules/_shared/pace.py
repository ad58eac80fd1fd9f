"""How fast the loss falls over the whole run, by thirds: what longer training can be expected to gain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats
from autotrainer.rules._shared.trends import blocks, theil_sen

__all__ = ["SURE", "Pace", "loss_series", "pace"]

SURE = 2.5
"""Standard errors by which the loss must have fallen from the second to the last third of the run."""

_MIN_LOSSES = 6
"""Fewest losses: two for each third of the run."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the loss falls, by thirds of the run.

    Attributes:
        fall: Fall from the second to the last third ÷ loss of the second.
        gain: Expected fall over the same number of further epochs ÷ present loss, at most 1, if the fall from third
            to third keeps shrinking at the same rate.
        sure: Fall from the second to the last third, in standard errors.
        falling: Whether it falls significantly over the whole run.
        absolute: Fall from the second to the last third.
    """

    fall: float
    gain: float
    sure: float
    falling: bool
    absolute: float


def loss_series(history: RunHistory) -> Floats:
    """Return the losses of single steps, or the means of epochs where too few steps were recorded."""
    losses, means = (values[np.isfinite(values)] for values in (history.losses[1], history.epochs("loss")[1]))
    return losses if len(losses) >= max(_MIN_LOSSES, history.step / 4) or len(means) < _MIN_LOSSES else means


def pace(losses: Floats) -> Pace | None:
    """Return how fast the loss falls, or None with too few losses."""
    count = len(losses)
    if count < _MIN_LOSSES:
        return None
    edges = [0, count // 3, 2 * count // 3]
    first, second, third = np.add.reduceat(losses, edges) / np.diff([*edges, count])
    noise = float(np.std(np.diff(losses))) / math.sqrt(2) * math.sqrt(2 / (count // 3))
    before, last = float(first - second), float(second - third)
    kept = min(1.0, max(0.0, last / before)) if before > 0 else 1.0
    gain = min(1.0, last * (kept + kept**2 + kept**3) / max(abs(float(third)), 1e-300))
    fall = last / max(abs(float(second)), 1e-300)
    sure = last / noise if noise > 0 else math.copysign(math.inf, last) if last else 0.0
    return Pace(fall, gain, sure, theil_sen(*blocks(np.arange(count), losses)).falling, last)
