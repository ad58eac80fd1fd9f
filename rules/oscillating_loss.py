"""AT301: loss or accuracy that swings instead of settling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from autotrainer.findings import Finding, Severity
from autotrainer.history import RunHistory
from autotrainer.rule import Rule, Threshold
from autotrainer.rules._outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._trends import recent
from autotrainer.signals import Floats
from autotrainer.task import TaskContext

__all__ = ["OscillatingLoss"]

_EPOCHS = 10
"""Fewest epochs whose swings are counted."""

_FEW_ROWS = 50
"""Rows that a validation set is taken to have at least: few distinct values say little about its size."""


class OscillatingLoss(Rule):
    """Loss or accuracy swings up and down instead of settling.

    What it does
        Counts swings between neighbouring highs and lows: of the accuracy from epoch to epoch, and of the loss from
        step to step where batches are too alike to explain them.

    Why it hurts
        Steps are too large for the valley that they are in: the model jumps over its lowest point, and its quality
        depends on where training happens to stop.

    Evidence used
        Accuracy of validation (else of training) per epoch over the last half of the run, with the resolution of the
        set (1 ÷ rows, read off the values themselves) taken as noise; losses of single steps, detrended, compared with
        the noise between neighbouring steps; the best level that was reached.

    Thresholds
        ``swing`` is zeta of AUTOTRAINER: high − low of the accuracy; ``share`` is eta: swings ÷ epochs;
        ``loss_swing``: swing of the loss relative to its level.

    When it is wrong
        Cyclic learning rates swing by design. Swings around a good level are a warning; an error needs swings of
        twice the threshold and a level below the best one.

    Repairs
        Another optimizer, a lower learning rate, larger batches, momentum, noise on the inputs.

    References
        Zhang et al., AUTOTRAINER, ICSE 2021, section III; Cohen et al., ICLR 2021 (edge of stability).
    """

    problem = "oscillating_loss"
    code = "AT301"
    aliases = ("oscillating", "oscillation", "unstable_loss", "fluctuating_loss")
    needs = OUTCOME_NEEDS
    causes = ("nonfinite_data", "exploding_gradient", "unscaled_targets", "abnormal_data")
    repairs = (
        "swap_optimizer",
        "scale_learning_rate",
        "reduce_on_plateau",
        "change_batch_size",
        "add_momentum",
        "add_input_noise",
        "reinitialize",
    )
    THRESHOLDS: ClassVar[Mapping[str, Threshold]] = MappingProxyType(
        {
            "swing": Threshold(0.03, "high − low of the accuracy", "AUTOTRAINER", maximum=1, alias="zeta"),
            "share": Threshold(0.2, "swings ÷ epochs", "AUTOTRAINER", maximum=1, alias="eta"),
            "loss_swing": Threshold(0.5, "swing of the loss ÷ its level", "calibrated"),
        }
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        return self._by_accuracy(history) or self._by_loss(history, context)

    def _by_accuracy(self, history: RunHistory) -> Finding | None:
        name = "val_accuracy" if len(history.epochs("val_accuracy")[0]) else "accuracy"
        values = history.epochs(name)[1]
        values = values[len(values) // 2 :][-200:]
        if len(values) < _EPOCHS or not np.isfinite(values).all():
            return None
        noise = _resolution(values)
        threshold = max(self.threshold("swing"), 2 * noise)
        drops = _drops(values)
        drops = drops[drops >= threshold]
        share = 2 * len(drops) / len(values)  # each drop follows a rise
        if not len(drops) or share < self.threshold("share"):
            return None
        typical = float(np.median(drops))
        behind = np.sort(np.maximum.accumulate(values) - values)
        usual = float(behind[int(0.8 * len(behind))])
        evidence = {"swing": typical, "share": share, "best": float(values.max()), "behind_best": usual}
        swing = self.threshold("swing")
        bad = typical >= max(2 * swing, 4 * noise) and usual >= max(3 * swing, 4 * noise)
        message = (
            f"{name.replace('_', ' ').replace('val', 'validation')} swings by {typical:.3g} in {share:.0%} of the last "
            f"{len(values)} epochs, and most of the time up to {usual:.3g} below the best so far ({values.max():.3g})."
        )
        severity = Severity.ERROR if bad else Severity.WARNING
        return self.finding(severity, 0.8 if bad else 0.5, message[0].upper() + message[1:], evidence)

    def _by_loss(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Find a loss that alternates from step to step, as it does where steps overshoot."""
        steps, losses = history.losses
        window = recent(steps, 0.5, 20)
        x, y = steps[window], losses[window]
        kept = np.isfinite(y)
        x, y = x[kept], y[kept]
        if len(y) < 20 or not (np.diff(x) == 1).mean() > 0.9:
            return None
        y = y[-400:]
        change = np.diff(y)
        level = float(np.median(np.abs(y)))
        # Independent noise turns at 2 of 3 steps; a loss that overshoots turns at nearly each one.
        turns = float(np.mean(change[1:] * change[:-1] < 0))
        swing = float(np.median(np.abs(change))) / level if level > 0 else math.nan
        if turns < 0.9 or not swing >= self.threshold("loss_swing"):
            return None
        result = outcome(history, context)
        if result.learned(0.5):
            return None
        message = f"The loss turns at {turns:.0%} of the last {len(y)} steps and swings by {swing:.0%} of its level."
        severity = result.worst if result.stuck(0.2) and result.mature(0.15) else Severity.WARNING
        return self.finding(severity, 0.6, message, {"turns": turns, "loss_swing": swing})


def _resolution(values: Floats) -> float:
    """Return the standard deviation that few rows alone give a swing, from the resolution of the values.

    Accuracies are multiples of 1 ÷ rows: the smallest step between them tells the rows. Neighbouring epochs are judged
    on the same rows, so that only few of them change sides: a fifth of the binomial variance.
    """
    gaps = np.diff(np.unique(np.round(values, 6)))
    gaps = gaps[gaps > 1e-5]
    if not gaps.size:
        return 0.0
    rows = max(_FEW_ROWS, 1 / float(gaps.min()))
    mean = min(max(float(np.mean(values)), 1 / rows), 1 - 1 / rows)
    return math.sqrt(2 * mean * max(0.0, 1 - mean) / rows / 5)


def _drops(values: Floats) -> Floats:
    """Return the sizes of the falls from each local maximum to the next local minimum."""
    moves = np.diff(values)
    moves = moves[moves != 0]
    if not moves.size:
        return np.zeros(0)
    turns = np.flatnonzero(np.diff(np.sign(moves)) != 0) + 1
    sizes = np.array([part.sum() for part in np.split(moves, turns)])
    return np.asarray(-sizes[sizes < 0], np.float64)
