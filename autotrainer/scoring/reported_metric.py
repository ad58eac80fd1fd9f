"""A metric whose scores the user's loop reports, one per epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotrainer.adapter.spec import Evaluation
from autotrainer.records.task import TargetSummary, TaskContext
from autotrainer.scoring.constant_prediction import constant_loss
from autotrainer.scoring.metrics import TRIVIAL_R2, Metric, Mode, Score
from autotrainer.scoring.significance import SIGMAS

__all__ = ["ReportedMetric", "ReportedScore", "lower_is_better"]

_LOWER = ("loss", "error", "mae", "mse")
"""Parts of the names of scores that are better when lower."""
_ACCURACY, _R2 = re.compile(r"^(?!.*(balanced|top)).*(\b|_)acc(uracy)?$"), re.compile(r"(\b|_)r2(_score)?$")
"""Names of scores whose trivial value is known."""
_MSE, _LOSS = re.compile(r"(\b|_)mse$"), re.compile(r"^((val|valid|validation|test|train)_)?loss$")
_VALIDATION_ROWS = 200
"""Rows assumed for validation data, whose size is unknown."""
_MIN_FALL, _OTHER_UNIT = 0.01, 3.0
"""Smallest share by which a loss must be below that of a constant prediction; and multiple of it above which a reported
loss seems to be summed rather than averaged."""
_PERCENT, _ROUNDING = 100.0, 1e-6
"""Unit of an accuracy that exceeds 1 by more than rounding."""
_RECENT = 1 / 3
"""Share of the epochs, the last ones, whose fluctuation estimates the noise of a score."""
_MIN_GAIN = 0.02
"""Smallest gain that counts, absolute for scores in [0, 1] and relative to the old score for others: about the standard
error of the difference of two accuracies near 1/2 over 1,000 rows (0.5 / √1000 × √2 = 0.022)."""


def lower_is_better(name: str) -> bool:
    """Return whether lower values of a score are better, by its name."""
    return any(part in name.lower() for part in _LOWER)


@dataclass(frozen=True, slots=True)
class ReportedScore(Score):
    """A score with an estimate of its noise over the last epochs.

    Attributes:
        fluctuation: Standard deviation from one epoch to the next, without the trend.
        best: The best score of these epochs.
        above_one: Whether the score of any epoch exceeds 1.
    """

    fluctuation: float = 0.0
    best: float = math.nan
    above_one: bool = False


class ReportedMetric(Metric):
    """Compares scores without predictions, by their fluctuation over the last epochs.

    A failed training often fluctuates so much that no gain would exceed its noise; a score is then also better if it
    exceeds all scores of these epochs.

    Args:
        name: Name of the score.
        mode: Whether higher or lower is better; None decides by the name.
    """

    def __init__(self, name: str, mode: Mode | None = None) -> None:
        self.name = name
        self.mode = mode or ("min" if lower_is_better(name) else "max")

    @property
    def is_share(self) -> bool:
        """Whether it is an accuracy or R², by its name."""
        return bool(_R2.search(self.name.lower()) or _ACCURACY.search(self.name.lower()))

    def score(self, evaluation: Evaluation) -> Score:
        """Not possible: a reported score is not a function of predictions."""
        raise NotImplementedError("the user's loop reports this score")

    def score_history(self, scores: Sequence[float]) -> ReportedScore:
        """Return the score of a training.

        Args:
            scores: The score reported at the end of each epoch, NaN where none was.

        Returns:
            The last score; infinitely bad if it is not finite.
        """
        value = float(scores[-1]) if len(scores) else math.nan
        worst = -self.sign * math.inf
        broken = not math.isfinite(value)
        recent = np.asarray(scores[-max(3, round(_RECENT * len(scores))) :], dtype=np.float64)
        finite = recent[np.isfinite(recent)]
        changes = np.diff(finite)
        fluctuation = float(np.std(changes) / math.sqrt(2)) if len(changes) > 1 else 0.0
        best = worst if broken else self.sign * float((self.sign * finite).max())
        above_one = any(1 + _ROUNDING < score < math.inf for score in scores)
        return ReportedScore(
            worst if broken else value, float(broken), None, None,
            fluctuation=fluctuation, best=best, above_one=above_one,
        )  # fmt: skip

    def in_unit(self, score: Score) -> float:
        """Return a score in the unit of `constant_score`.

        An accuracy that exceeds 1 in any epoch is in percent; R² that does is something else, and NaN is returned.
        """
        if not (self.is_share and isinstance(score, ReportedScore) and score.above_one):
            return score.value
        return math.nan if _R2.search(self.name.lower()) else score.value / _PERCENT

    def constant_score(self, context: TaskContext, targets: TargetSummary, score: Score | None) -> float:
        """Return the score of the best constant prediction.

        Args:
            context: The training.
            targets: Summary of its targets.
            score: Its score, if there is one.

        Returns:
            Known for accuracy (unless the loss weights classes), R², squared error and the loss, by name; else NaN.
        """
        name = self.name.lower()
        if _R2.search(name):
            return math.nan if score is not None and math.isnan(self.in_unit(score)) else 0.0
        if _ACCURACY.search(name):
            return math.nan if context.loss.weighted else context.trivial_accuracy(targets)
        if _MSE.search(name) and context.kind(targets) == "regression":
            return targets.variance
        return constant_loss(context.loss, targets) if _LOSS.search(name) else math.nan

    def above_constant(self, score: Score | None, constant: float) -> bool:
        """Return whether a score is clearly better than that of the best constant prediction.

        R² must exceed 0.05, an accuracy its noise on 200 rows, since their number is unknown, and a loss be 1 % lower.

        Args:
            score: The score; None if there is none.
            constant: What `constant_score` returned; a score passes if that is NaN, or if it is a loss so much larger
                that it is another sum or mean.
        """
        if score is None:
            return False
        if math.isnan(constant):
            return True
        if _R2.search(self.name.lower()):
            return self.in_unit(score) > TRIVIAL_R2
        if _ACCURACY.search(self.name.lower()):
            return self.in_unit(score) > constant + SIGMAS * math.sqrt(
                max(0.0, constant * (1 - constant)) / _VALIDATION_ROWS
            )
        return score.value < (1 - _MIN_FALL) * constant or _OTHER_UNIT * constant < score.value < math.inf

    def _exceeds_noise(self, new: Score, old: Score, sigmas: float) -> bool:
        if not math.isfinite(old.value):
            return True
        new_noise, old_noise, old_best = 0.0, 0.0, old.value
        if isinstance(new, ReportedScore) and isinstance(old, ReportedScore):
            new_noise, old_noise, old_best = new.fluctuation, old.fluctuation, old.best
        low, high = min(new.value, old.value), max(new.value, old.value)
        scale = 1.0 if self.mode == "max" and low >= 0 and high <= 1 else abs(old.value)
        if _ACCURACY.search(self.name.lower()) and high > 1 + _ROUNDING:
            scale = _PERCENT
        min_gain = _MIN_GAIN * scale
        if self.gain(new, old) > max(min_gain, sigmas * math.hypot(new_noise, old_noise)):
            return True
        return self.sign * (new.value - old_best) > max(min_gain, sigmas * new_noise)
