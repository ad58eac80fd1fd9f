"""How the loss falls over a whole run, by thirds: what more of the same training could be expected to give."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats
from autotrainer.rules._shared.trends import blocks, theil_sen

__all__ = ["SURE", "Pace", "known_losses", "pace"]

SURE = 2.5
"""Standard errors that the loss must have fallen from the second to the last third of the run."""

_LEAST = 6
"""Losses, at least: two for each third of the run."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How the loss falls: by thirds of the run.

    Attributes:
        fall: Fall from the second to the last third ÷ loss of the second.
        gain: Expected fall over as many epochs again ÷ present loss, at most 1, where the fall from third to third
            goes on to shrink as it did.
        sure: Fall from the second to the last third, in standard errors.
        falling: Whether it falls beyond doubt over the whole run.
        absolute: Fall from the second to the last third.
    """

    fall: float
    gain: float
    sure: float
    falling: bool
    absolute: float


def known_losses(history: RunHistory) -> Floats:
    """Return the losses of single steps; of epochs where those are known better."""
    losses, means = (values[np.isfinite(values)] for values in (history.losses[1], history.epochs("loss")[1]))
    return losses if len(losses) >= max(_LEAST, history.step / 4) or len(means) < _LEAST else means


def pace(losses: Floats) -> Pace | None:
    """Return how the loss falls, or None where too little is known of it."""
    count = len(losses)
    if count < _LEAST:
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
