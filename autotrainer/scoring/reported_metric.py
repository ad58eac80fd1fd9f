"""A score that the user's own loop tells, one an epoch, and when one training is better than another by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotrainer.adapter.spec import Evaluation
from autotrainer.scoring.metrics import Metric, Mode, Score

__all__ = ["ReportedMetric", "ReportedScore", "lower_is_better"]

_LOWER = ("loss", "error", "mae", "mse")
"""Parts of names of scores of which lower ones are better."""
_RECENT = 1 / 3
"""Share of the epochs, the last ones, whose flicker tells the noise of a score."""
_LEAST = 0.02
"""Smallest gain that counts: of a share in [0, 1] as such, of other scores relative to the old one. That of two
accuracies over 1,000 rows with the standard error of their difference (0.5 / √1000 × √2 = 0.022) near 1/2."""


def lower_is_better(name: str) -> bool:
    """Say whether lower values of a score are better, by its name."""
    return any(part in name.lower() for part in _LOWER)


@dataclass(frozen=True, slots=True)
class ReportedScore(Score):
    """A score with what its last epochs tell of its noise.

    Attributes:
        flicker: Standard deviation from one epoch to the next, trend left out.
        best: The best of these epochs' scores.
    """

    flicker: float = 0.0
    best: float = math.nan


class ReportedMetric(Metric):
    """Compares scores whose predictions are not seen: by their flicker over the last epochs.

    A training that flickers wildly, as one that has failed does, is also beaten by a score above all that it had in
    these epochs.

    Args:
        name: Name of the score.
        mode: Whether higher or lower is better; None goes by the name.
    """

    def __init__(self, name: str, mode: Mode | None = None) -> None:
        self.name = name
        self.mode = mode or ("min" if lower_is_better(name) else "max")

    def judge(self, evaluation: Evaluation) -> Score:
        """Not possible: a score that is told is no function of predictions."""
        raise NotImplementedError("the user's loop tells this score")

    def told(self, scores: Sequence[float]) -> ReportedScore:
        """Return the score of a training.

        Args:
            scores: What was told at each epoch's end, NaN where nothing was.

        Returns:
            The last score; infinitely bad if that is not finite.
        """
        value = float(scores[-1]) if len(scores) else math.nan
        worst = -self.sign * math.inf
        broken = not math.isfinite(value)
        recent = np.asarray(scores[-max(3, round(_RECENT * len(scores))) :], dtype=np.float64)
        finite = recent[np.isfinite(recent)]
        changes = np.diff(finite)
        flicker = float(np.std(changes) / math.sqrt(2)) if len(changes) > 1 else 0.0
        best = worst if broken else self.sign * float((self.sign * finite).max())
        return ReportedScore(worst if broken else value, float(broken), None, None, flicker=flicker, best=best)

    def _exceeds_noise(self, new: Score, old: Score, sigmas: float) -> bool:
        if not math.isfinite(old.value):
            return True
        flicker, wild, best = 0.0, 0.0, old.value
        if isinstance(new, ReportedScore) and isinstance(old, ReportedScore):
            flicker, wild, best = new.flicker, old.flicker, old.best
        share = self.mode == "max" and min(new.value, old.value) >= 0 and max(new.value, old.value) <= 1
        least = _LEAST * (1.0 if share else abs(old.value))
        if self.gain(new, old) > max(least, sigmas * math.hypot(flicker, wild)):
            return True
        return self.sign * (new.value - best) > max(least, sigmas * flicker)
