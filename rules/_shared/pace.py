"""How fast the loss falls over the whole run, by thirds: what longer training can be expected to gain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


def loss_series(history: RunHistory) -> tuple[NDArray[np.int64], Floats]:
    """Return steps and their finite losses, or epochs and their means where too few steps were recorded."""
    losses, means = (_finite(*series) for series in (history.losses, history.epochs("loss")))
    enough = len(losses[1]) >= max(_MIN_LOSSES, history.step / 4)
    return losses if enough or len(means[1]) < _MIN_LOSSES else means


def _finite(places: NDArray[np.int64], values: Floats) -> tuple[NDArray[np.int64], Floats]:
    kept = np.isfinite(values)
    return places[kept], values[kept]


def pace(places: NDArray[np.int64], losses: Floats) -> Pace | None:
    """Return how fast the loss falls, or None with too few losses.

    Args:
        places: 0-based steps or epochs of the losses, in order; a history holds fewer of the older ones.
        losses: The losses.
    """
    if len(losses) < _MIN_LOSSES:
        return None
    length = int(places[-1] - places[0]) + 1
    edges = np.searchsorted(places - places[0], [0, length // 3, 2 * length // 3])
    if not np.diff([*edges, len(losses)]).all():
        return None
    steps = np.maximum(np.gradient(places.astype(np.float64)), 1e-9)  # that each loss stands for
    totals = np.add.reduceat(steps, edges)
    first, second, third = np.add.reduceat(steps * losses, edges) / totals
    variances = np.add.reduceat(steps**2, edges) / totals**2
    noise = float(np.std(np.diff(losses))) * math.sqrt((variances[1] + variances[2]) / 2)
    before, last = float(first - second), float(second - third)
    kept = min(1.0, max(0.0, last / before)) if before > 0 else 1.0
    gain = min(1.0, last * (kept + kept**2 + kept**3) / max(abs(float(third)), 1e-300))
    fall = last / max(abs(float(second)), 1e-300)
    sure = last / noise if noise > 0 else math.copysign(math.inf, last) if last else 0.0
    return Pace(fall, gain, sure, theil_sen(*blocks(places, losses)).falling, last)
