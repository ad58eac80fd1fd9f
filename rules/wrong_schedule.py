"""AT410: a learning-rate schedule that does nothing, or that reaches zero long before the end."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, YOUNG_STEPS, Outcome, outcome

__all__ = ["WrongSchedule"]

_MIN_STEPS = 20
"""Fewest steps with a rate of almost zero: a schedule that starts at zero has left it by then."""

_EARLY = 0.2
"""Share of the schedule within which no schedule should reach zero, and no plateau has been reached."""


class WrongSchedule(Rule):
    """The learning rate is almost zero for much of the training, or an attached schedule never changes it.

    What it does
        Follows the learning rate over the run: that of the first parameter group whose rate is above 0.

    Why it hurts
        At a rate of almost zero nothing is learned: the rest of the training is wasted. This happens if a schedule
        meant for epochs is stepped after each batch. A schedule that is never stepped leaves the rate unchanged.

    Evidence used
        The rate relative to its largest value, for how long it has been almost zero, the planned length, whether a
        schedule is attached, and the outcome.

    Thresholds
        ``low``: rate that counts as almost zero. ``stretch``: share of the planned length that it must last; cyclic and
        cosine schedules touch zero for 2 % of a cycle (the share of a half cosine that lies below ``low``). ``rest``:
        share of the planned length that must remain after the rate vanished. ``epochs`` and ``late``: when a schedule
        without effect is reported; drops at half or three quarters of the training are common. ``good_score`` from
        which all of this is only a fact.

    When it is wrong
        A rate that was lowered on a plateau at the optimum does no harm: if the model is good enough, it is a fact. It
        is an error only if the rate vanished within the first fifth of the planned training, and changed within epochs
        or left a model without skill.

    Repairs
        A cosine schedule over the whole training instead. By hand: call ``scheduler.step()`` after
        ``optimizer.step()``, as often as the schedule expects: once per epoch, or after each batch with the number of
        batches as its length.

    References
        PyTorch documentation, "How to adjust learning rate"; Loshchilov and Hutter, ICLR 2017; Smith, WACV 2017.
    """

    problem = "wrong_schedule"
    code = "AT410"
    aliases = ("scheduler", "lr_schedule", "learning_rate_schedule", "scheduler_per_batch", "scheduler_not_stepped")
    phrases = (
        "learning rate does not change",
        "learning rate becomes zero",
        "learning rate is zero",
        "scheduler does not work",
        "scheduler.step",
        "scheduler per batch or per epoch",
        "learning rate drops too fast",
    )
    needs = OUTCOME_NEEDS | frozenset({"learning_rate"})
    repairs = ("schedule_learning_rate",)
    place = "optimizer"
    THRESHOLDS = thresholds(
        low=Threshold(1e-3, "rate that is almost zero ÷ its largest value", "catalogue", maximum=1.0),
        stretch=Threshold(0.05, "share of the plan at such a rate, at least", "2 % for a cosine", maximum=1.0),
        rest=Threshold(0.5, "share of the plan after the rate vanished, at least", "at least half of it", maximum=1.0),
        epochs=Threshold(3, "epochs without a change of the rate, at least", "catalogue"),
        late=Threshold(
            0.9, "share of the plan without a change of the rate", "drops at 0.5 and 0.75 are common", maximum=1.0
        ),
        good_score=Threshold(0.7, "skill that is good enough", "Theta of AUTOTRAINER", maximum=1.0),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        rates = history.scalar("learning_rate")
        if len(rates) < 3 or not np.isfinite(rates).all():
            return None
        result = outcome(history, context)
        return self._vanished(history, rates, result) or self._unused(history, context, rates, result)

    def _vanished(self, history: RunHistory, rates: Floats, result: Outcome) -> Finding | None:
        largest = float(rates.max())
        low = rates <= self.threshold("low") * largest
        if not low[-1]:
            return None
        since = int(np.flatnonzero(~low)[-1]) + 1 if not low.all() else 0
        begun = int(history.steps[since])
        lasted = result.steps - begun
        whole = result.planned if math.isfinite(result.planned) else max(result.steps, 2 * YOUNG_STEPS)
        before = begun / whole
        if lasted < max(_MIN_STEPS, self.threshold("stretch") * whole) or before > 1 - self.threshold("rest"):
            return None
        if math.isnan(result.progress) and lasted < self.threshold("rest") * result.steps:
            return None
        if result.learned(self.threshold("good_score")):
            severity = Severity.INFO
        else:
            harmed = before <= _EARLY and result.known and (result.stuck() or _within_epochs(history, rates[:since]))
            severity = result.worst if harmed or largest == 0 else Severity.WARNING
        span = f"{before:.0%} of the planned training" if math.isfinite(result.planned) else f"step {begun}"
        if largest == 0:
            message = "The learning rate has been 0 from the start, so training changes nothing"
        else:
            message = (
                f"The learning rate has been almost zero since {span} (now {rates[-1]:.3g}, at most "
                f"{self.threshold('low'):g} times its maximum), so the rest of the training changes nothing"
            )
        if largest > 0 and before <= _EARLY:
            message += ", perhaps because a schedule meant for epochs is stepped after each batch"
        if severity is Severity.ERROR and result.words:
            message += f"; {result.words}"
        evidence = {"rate": float(rates[-1]), "largest": largest, "since_step": float(begun), "share_before": before}
        return self.finding(severity, 0.9 if largest == 0 or before <= _EARLY else 0.6, message + ".", evidence)

    def _unused(self, history: RunHistory, context: TaskContext, rates: Floats, result: Outcome) -> Finding | None:
        if not context.optimizer.scheduled or (rates != rates[0]).any() or rates[0] == 0:
            return None
        if history.epoch < self.threshold("epochs") or not result.progress >= self.threshold("late"):
            return None
        severity = Severity.INFO if result.learned(self.threshold("good_score")) else Severity.WARNING
        return self.finding(
            severity,
            0.7,
            f"A learning-rate schedule is attached, but the rate has been {rates[0]:.3g} in all {history.epoch} "
            "epochs: scheduler.step() is not called, or the schedule is longer than the training.",
            {"rate": float(rates[0]), "epochs": float(history.epoch)},
        )


def _within_epochs(history: RunHistory, rates: Floats) -> bool:
    """Return whether the first rates changed within an epoch, as no schedule that is stepped once per epoch does."""
    epochs = np.searchsorted(history.epoch_ends, history.steps[: len(rates)])
    return bool(((np.diff(epochs) == 0) & (np.diff(rates) < 0)).any())
