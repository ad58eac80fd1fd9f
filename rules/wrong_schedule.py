"""AT410: a learning-rate schedule that does nothing, is stepped too often or too rarely, or ends far too early."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, YOUNG_STEPS, Outcome, outcome
from autotrainer.rules._shared.stepping import STEPPING_NEEDS, Stepping

__all__ = ["WrongSchedule"]

_MIN_STEPS = 20
"""Fewest steps with a rate of almost zero: a schedule that starts at zero has left it by then."""

_EARLY = 0.2
"""Share of the schedule within which no schedule should reach zero, and no plateau has been reached."""


_ENDS_EARLY, _STAYS = 1.5, 0.5
"""Steps of the scheduler in the whole training ÷ those that it is made for: from the first on, the schedule ends within
two thirds of the training; up to the second, the training ends within the first half of the schedule."""

_PERIODIC = frozenset({"CosineAnnealingLR"})
"""Schedules that begin again after their length, as they may be meant to."""

_WAITING = "ReduceLROnPlateau"
"""A schedule that changes nothing as long as the training makes progress."""


class WrongSchedule(Rule):
    """The learning-rate schedule does not fit the training: the rate vanishes early, or hardly follows the schedule.

    What it does
        Follows the learning rate over the run: that of the first parameter group whose rate is above 0; and how often
        the scheduler is stepped.

    Why it hurts
        At a rate of almost zero nothing is learned: the rest of the training is wasted. This happens if a schedule
        meant for epochs is stepped after each batch, or several times a step. A schedule that is never stepped, or
        once per epoch although it is made for steps, leaves the rate where it was, perhaps at the start of a warm-up.

    Evidence used
        The rate relative to its largest value, for how long it has been almost zero, the planned length, whether a
        schedule is attached, the outcome; and, where the scheduler is known (one of PyTorch that is a variable of the
        loop, a schedule of a Keras optimizer), its steps for each step of the optimizer and the length it is made for.

    Thresholds
        ``low``: rate that counts as almost zero. ``stretch``: share of the planned length that it must last; cyclic and
        cosine schedules touch zero for 2 % of a cycle (the share of a half cosine that lies below ``low``). ``rest``:
        share of the planned length that must remain after the rate vanished. ``epochs`` and ``late``: when a schedule
        without effect is reported; drops at half or three quarters of the training are common. ``good_score`` from
        which all of this is only a fact.

    When it is wrong
        A rate that was lowered on a plateau at the optimum does no harm: if the model is good enough, it is a fact. It
        is an error only if the rate vanished within the first fifth of the planned training, and changed within epochs
        or left a model without skill; or if a model without skill has a schedule that is never stepped, or far from its
        end. ``ReduceLROnPlateau`` may leave the rate as it is, and is no unused schedule. Distributed training can step
        a schedule once for each process: where the length fits, nothing is reported, and neither for a length that is
        unknown. A schedule may be longer than the training on purpose.

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
        "scheduler stepped twice",
    )
    needs = OUTCOME_NEEDS | STEPPING_NEEDS | frozenset({"learning_rate"})
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
        stepping = Stepping.of(history, context, result) if context.optimizer.scheduled else None
        return (
            self._vanished(history, rates, result, stepping)
            or self._misstepped(history, result, stepping)
            or self._unused(history, context, rates, result, stepping)
        )

    def _misstepped(self, history: RunHistory, result: Outcome, stepping: Stepping | None) -> Finding | None:
        """Return a finding if the scheduler is stepped too often or too rarely for the length that it is made for."""
        if stepping is None or not (history.finished or result.mature(self.threshold("rest"))):
            return None
        never = not stepping.taken and (history.finished or history.epoch >= self.threshold("epochs"))
        periodic = stepping.name in _PERIODIC and not (stepping.made_for_epochs or stepping.times > 1)
        name, length, coverage = stepping.name, stepping.length, stepping.coverage
        total = stepping.per_step * stepping.planned
        if never:
            problem = f"is attached, but scheduler.step() has not been called in {result.steps} steps"
            problem += ", so the learning rate stays as it was at the start"
        elif coverage >= _ENDS_EARLY and not periodic:
            if stepping.times > 1:
                why = f"is stepped {stepping.times} times for each step of the optimizer"
            elif stepping.made_for_epochs and stepping.per_step > 0.5:
                why = "is stepped after each batch, although it is made for epochs"
            else:
                why = f"takes {total:.0f} steps in this training"
            problem = f"{why}: its {length:.0f} steps end after {1 / coverage:.0%} of the training"
        elif coverage <= _STAYS and length >= stepping.planned / 2:
            rarely = stepping.per_step <= 0.5
            problem = f"is made for {length:.0f} steps, but takes only {total:.0f} in this training"
            problem += (
                ": it is not stepped after each step of the optimizer" if rarely else ": it never reaches its end"
            )
        else:
            return None
        severity = Severity.INFO if result.learned(self.threshold("good_score")) else Severity.WARNING
        certain = never or stepping.times > 1 or stepping.made_for_epochs or stepping.per_step <= 0.5
        if severity is Severity.WARNING and not certain:
            severity = Severity.INFO if not result.known else severity
        elif severity is Severity.WARNING and result.known and result.stuck():
            severity = result.worst
            problem += f"; {result.words}" if result.words else ""
        evidence = {"steps_per_step": stepping.per_step, "scheduler_steps": stepping.taken}
        evidence |= {"schedule_length": length, "coverage": coverage}
        evidence = {key: value for key, value in evidence.items() if math.isfinite(value)}
        return self.finding(severity, 0.9 if certain else 0.5, f"The {name} {problem}.", evidence)

    def _vanished(
        self, history: RunHistory, rates: Floats, result: Outcome, stepping: Stepping | None
    ) -> Finding | None:
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
        if largest > 0 and stepping is not None and stepping.times > 1:
            message += f", as the schedule is stepped {stepping.times} times for each step of the optimizer"
        elif largest > 0 and stepping is not None and stepping.made_for_epochs and stepping.per_step > 0.5:
            message += f": the schedule is made for {stepping.length:.0f} epochs, but stepped after each batch"
        elif largest > 0 and before <= _EARLY:
            message += ", perhaps because a schedule meant for epochs is stepped after each batch"
        if severity is Severity.ERROR and result.words:
            message += f"; {result.words}"
        evidence = {"rate": float(rates[-1]), "largest": largest, "since_step": float(begun), "share_before": before}
        return self.finding(severity, 0.9 if largest == 0 or before <= _EARLY else 0.6, message + ".", evidence)

    def _unused(
        self, history: RunHistory, context: TaskContext, rates: Floats, result: Outcome, stepping: Stepping | None
    ) -> Finding | None:
        if not context.optimizer.scheduled or (rates != rates[0]).any() or rates[0] == 0:
            return None
        if history.epoch < self.threshold("epochs") or not result.progress >= self.threshold("late"):
            return None
        if context.optimizer.schedule == _WAITING:
            return None
        severity = Severity.INFO if result.learned(self.threshold("good_score")) else Severity.WARNING
        stepped = stepping.taken > 0 if stepping is not None else bool(context.optimizer.schedule)
        reason = "" if stepped else "scheduler.step() is not called, or "
        return self.finding(
            severity,
            0.7,
            f"A learning-rate schedule is attached, but the rate has been {rates[0]:.3g} in all {history.epoch} "
            f"epochs: {reason}the schedule is longer than the training.",
            {"rate": float(rates[0]), "epochs": float(history.epoch)},
        )


def _within_epochs(history: RunHistory, rates: Floats) -> bool:
    """Return whether the first rates changed within an epoch, as no schedule that is stepped once per epoch does."""
    epochs = history.epochs_of(history.steps[: len(rates)])
    return bool(((np.diff(epochs) == 0) & (np.diff(rates) < 0)).any())
