"""AT301: loss or accuracy that oscillates instead of settling."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.skill import trivial_squared_error
from autotrainer.rules._shared.trends import recent

__all__ = ["OscillatingLoss"]

_EPOCHS = 8
"""Fewest epochs whose swings are counted."""

_REPEATED = 2
"""Fewest falls that count as swings: a single one may be chance."""

_FEW_ROWS = 50
"""Fewest rows assumed for a validation set: few distinct values say little about its size."""

_MANY_ROWS = 2500
"""Rows from which `_SIGNIFICANT` standard deviations of any accuracy are within the default threshold."""

_LARGE = 0.15
"""Swing of the loss ÷ loss of an untrained model that noise does not explain."""

_OFTEN = 0.3
"""Share of epochs far below the best one from which the result depends on luck."""

_GOOD = 0.8
"""Mean skill from which swings are not an error."""

_SIGNIFICANT = 3.0
"""Standard deviations of the accuracy that a fall must exceed.

Every epoch evaluates the same rows, so only rows whose prediction changes contribute. If half of the predictions are
redrawn at random every epoch, some 4 % of runs seem to swing; with a fifth of them, hardly any.
"""


class OscillatingLoss(Rule):
    """Loss or accuracy oscillates instead of settling.

    What it does
        Counts swings between highs and lows: of accuracy and loss from epoch to epoch, if they are larger than a small
        number of rows or a trend explains, and of the loss from step to step, if it alternates too regularly for batch
        noise.

    Why it hurts
        Steps are too large for the valley that they descend: the model jumps over its lowest point, and its quality
        depends on where training happens to stop.

    Evidence used
        Accuracy on validation (otherwise training) data per epoch over the last 60 % of the run, less the binomial
        noise of the set (its number of rows is inferred from the values, which are multiples of 1 ÷ rows); if accuracy
        is steady or unknown, the validation (otherwise training) loss per epoch, on the scale of the loss of an
        untrained model; losses of single steps that change direction at nearly every step; the best level reached.

    Thresholds
        ``swing`` is zeta of AUTOTRAINER: high − low of the accuracy, or of the loss as a share of that at the start;
        ``share`` is eta: highs and lows that belong to swings ÷ epochs; ``loss_swing``: swing of the loss relative to
        its level.

    When it is wrong
        An error requires repeated swings, a level far below the best one (by noise and ``swing``; for the loss by 0.15
        of that at the start) in 30 % of the epochs, a mean skill below 0.8, and half of the schedule done. Other swings
        are a warning, and nothing is reported if only the loss swings while accuracy is steady and good. Cyclic
        learning rates cause swings by design and are never an error. Runs of fewer than 9 epochs are not judged by
        epoch. Accuracies averaged over batches look like those of a larger, less noisy set.

    Repairs
        Another optimizer, a lower learning rate, larger batches, momentum, or noise on the inputs.

    References
        Zhang et al., AUTOTRAINER, ICSE 2021, section III; Cohen et al., ICLR 2021 (edge of stability);
        Agresti and Coull, The American Statistician 1998 (noise of a share).
    """

    problem = "oscillating_loss"
    code = "AT301"
    aliases = ("oscillating", "oscillation", "unstable_loss", "fluctuating_loss")
    phrases = (
        "loss oscillates",
        "loss fluctuates",
        "loss jumps up and down",
        "loss is unstable",
        "accuracy fluctuates",
        "validation accuracy jumps",
        "validation loss fluctuates",
        "loss is noisy",
    )
    needs = OUTCOME_NEEDS | {"learning_rate"}
    causes = (
        "missing_zero_grad",
        "wrong_training_mode",
        "abnormal_normalization",
        "nonfinite_data",
        "unshuffled_data",
        "learning_rate_too_high",
        "exploding_gradient",
        "unscaled_targets",
        "abnormal_data",
    )
    repairs = (
        "swap_optimizer",
        "scale_learning_rate",
        "reduce_on_plateau",
        "change_batch_size",
        "add_momentum",
        "add_input_noise",
        "reinitialize",
        "schedule_learning_rate",
    )
    THRESHOLDS = thresholds(
        swing=Threshold(0.03, "high − low of the accuracy", "AUTOTRAINER", maximum=1, alias="zeta"),
        share=Threshold(0.2, "swings ÷ epochs", "AUTOTRAINER", maximum=1, alias="eta"),
        loss_swing=Threshold(0.5, "swing of the loss ÷ its level", "calibrated"),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        accuracy = next((name for name in ("val_accuracy", "accuracy") if name in history.epoch_names), None)
        by_accuracy = self._by_accuracy(history, context, accuracy) if accuracy else None
        return by_accuracy or self._by_epoch_loss(history, context) or self._by_step_loss(history, context)

    def _by_accuracy(self, history: RunHistory, context: TaskContext, name: str) -> Finding | None:
        values = history.epochs(name)[1]
        late = _late(values)
        if not late.size:
            return None
        least = max(self.threshold("swing"), _SIGNIFICANT * _binomial_noise(late))
        return self._judge(history, context, name, values, least, least + self.threshold("swing"))

    def _by_epoch_loss(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the swings of the loss per epoch, on the scale from 0 to the loss of an untrained model."""
        name = "val_loss" if "val_loss" in history.epoch_names else "loss"
        values = history.epochs(name)[1]
        late = _late(values)
        start = history.losses[1][:5]
        start = start[np.isfinite(start)]
        if not late.size or not start.size:
            return None
        untrained = float(np.fmin(abs(np.median(start)), trivial_squared_error(history, context)))
        level = float(np.median(np.abs(late)))
        relative = min(self.threshold("loss_swing") * level, _LARGE * max(untrained, level))
        least = max(self.threshold("swing") * untrained, relative)
        return self._judge(history, context, name, -values, least, least + _LARGE * untrained)

    def _judge(
        self, history: RunHistory, context: TaskContext, name: str, values: Floats, least: float, large: float
    ) -> Finding | None:
        """Judge the swings of a value per epoch, of which higher is better.

        Args:
            history: The history.
            context: Facts about the training.
            name: Name of the value.
            values: The value per epoch, shape (epochs,); a loss with its sign reversed.
            least: Size from which a fall counts as a swing.
            large: Size from which the result depends on luck.
        """
        late = _late(values)
        falls = _falls(late, least)
        share = 2 * len(falls) / len(late)  # each fall follows a rise
        if len(falls) < _REPEATED or share < self.threshold("share"):
            return None
        best = float(values.max())
        behind = float(np.mean((np.maximum.accumulate(values) - values)[-len(late) :] >= large))
        result = outcome(history, context)
        if "accuracy" in name:
            good = float(np.mean(late)) >= result.trivial + _GOOD * (1 - result.trivial)
        else:  # a known accuracy is steady, or it would have been judged
            steady = any("accuracy" in other for other in history.epoch_names)
            if steady and result.learned(_GOOD):
                return None
            good = result.learned(0.5 if steady else _GOOD)
        bad = behind >= _OFTEN and not good and not _cyclic(history.scalar("learning_rate")) and result.mature(0.5)
        typical = float(np.median(falls))
        epochs = history.epochs(name)[0]
        judged = int(epochs[-1] - epochs[-len(late)]) + 1
        label = name.replace("val_", "validation ")
        label = f"The {label}" if "loss" in name else label.capitalize()
        message = (
            f"{label} oscillates by {typical:.3g} in {share:.0%} of the last {judged} epochs; in {behind:.0%} of "
            f"them it is worse than the best so far ({abs(best):.3g}) by at least {large:.2g}."
        )
        evidence = {"swing": typical, "share": share, "best": abs(best), "behind_best": behind}
        return self.finding(Severity.ERROR if bad else Severity.WARNING, 0.8 if bad else 0.4, message, evidence)

    def _by_step_loss(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge whether the loss alternates from step to step, as it does if steps overshoot."""
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
        # Independent noise changes direction at 2 of 3 steps, overshooting at nearly every one.
        turns = float(np.mean(change[1:] * change[:-1] < 0))
        swing = float(np.median(np.abs(change))) / level if level > 0 else math.nan
        if turns < 0.9 or not swing >= self.threshold("loss_swing"):
            return None
        result = outcome(history, context)
        if result.learned(0.5):
            return None
        message = (
            f"The loss oscillates: it changes direction at {turns:.0%} of the last {len(y)} steps, by {swing:.0%} of "
            "its level."
        )
        severity = result.worst if result.stuck(0.2) and result.mature(0.15) else Severity.WARNING
        return self.finding(severity, 0.6, message, {"turns": turns, "loss_swing": swing})


def _late(values: Floats) -> Floats:
    """Return the last three fifths of the epochs, without the steep start; empty if too few or not finite."""
    judged = len(values) > _EPOCHS and bool(np.isfinite(values).all())
    return values[-min(200, max(_EPOCHS, len(values) * 3 // 5)) :] if judged else values[:0]


def _cyclic(rates: Floats) -> bool:
    """Return whether the learning rate alternately rises and falls, at least twofold each time."""
    logs = np.log(rates[rates > 0])
    return len(_falls(logs, math.log(2))) + len(_falls(-logs, math.log(2))) > 2


def _binomial_noise(values: Floats) -> float:
    """Return the standard deviation of an accuracy that the number of rows alone explains.

    Accuracies are multiples of 1 ÷ rows: the smallest number that fits all of them is used. Two successes and two
    failures are added to the observations, so that a perfect score is not free of noise (Agresti and Coull 1998).
    """
    distinct = np.unique(values)[:32]
    rows = np.arange(_FEW_ROWS, _MANY_ROWS)
    right = rows[:, None] * distinct
    fits = (np.abs(right - np.round(right)) <= 1e-5 * rows[:, None]).all(axis=1)
    count = int(rows[np.argmax(fits)]) if fits.any() else _MANY_ROWS
    mean = (min(1.0, max(0.0, float(np.mean(values)))) * count + 2) / (count + 4)
    return math.sqrt(mean * (1 - mean) / count)


def _falls(values: Floats, least: float) -> Floats:
    """Return the sizes of falls from a high to the next low, ignoring reversals smaller than `least`.

    A trend with small fluctuations is one long move, not many.
    """
    falls: list[float] = []
    high = low = float(values[0]) if len(values) else math.nan
    falling = False
    for value in map(float, values):
        if falling:
            low = min(low, value)
            falls[-1] = high - low
            if value - low >= least:
                falling, high = False, value
        elif value <= high - least:
            falling, low = True, value
            falls.append(high - value)
        else:
            high = max(high, value)
    return np.array(falls)
