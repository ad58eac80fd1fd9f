"""AT302: progress that is real but far too slow for the schedule."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import weight_layers
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.pace import SURE, loss_series, pace
from autotrainer.rules._shared.steps import STEP_NEEDS, steps_taken
from autotrainer.rules._shared.trends import theil_sen

__all__ = ["SlowConvergence"]

_REAL = 0.02
"""Share of the loss that must have gone over the last half of the run: with less it is stuck, not slow."""


_FAIR, _GOOD = 0.3, 0.8
"""Skill from which the pace has evidently sufficed; and from which it does not matter."""

_END = 0.98
"""Share of the schedule from which its end is judged."""

_WHOLE, _HARDLY, _MANY_EPOCHS = 2, 100, 10
"""Steps an epoch up to which a batch is about all rows; steps that are hardly ever enough; and epochs with which the
usual number of steps was to be expected."""

_TO_GAIN = 0.1
"""Expected fall of the loss over as many epochs again, at least, as in `too_few_epochs`."""

_POOR, _FINE = 0.75, 0.9
"""Upper end of the interval of skill up to which that is an error, and skill from which it does not matter, as in
`too_few_epochs`."""

_STANDING = 0.02
"""Change of the weights by the end ÷ their size with which they stay what they were: skill was there at the start."""


class SlowConvergence(Rule):
    """The model still learns, but at this pace the schedule ends long before it is good.

    What it does
        Extends the trend of loss and score to the end of the schedule and compares with what is left to gain.

    Why it hurts
        Training ends with a model that is clearly worse than the same model could be.

    Evidence used
        Robust trends (Theil–Sen) over the last half of the run: of the loss, and of the accuracy per epoch; skill over
        the trivial predictor with its interval; share of the schedule done. A single lucky epoch moves neither trend
        much, and an early plateau leaves the window as the run goes on. Size of a step relative to the weights, times
        all steps of the schedule: a bound on how far the weights can get. At the end, the steps that many epochs had
        where a batch holds about all rows, and whether the loss still fell.

    Thresholds
        ``gain`` is delta of AUTOTRAINER, here the gain of accuracy per epoch by the trend; ``schedule`` is the share
        of the planned training from which the size of steps is judged, twice that for trends; ``skill`` is the skill
        that the run must reach by its end; ``travel`` is how far steps of the present size can carry the weights,
        relative to their size; where that is below 0.02, skill up to 0.8 does not excuse it, for it was not learned in
        this run.

    When it is wrong
        Plateaus that end by themselves late in the run, and rates that are to rise later. Small steps count only where
        they have been so all along, not at rest at the optimum of noisy data. Without a known schedule, or where the
        score is fair, it is a warning.

    Repairs
        Another optimizer, a higher learning rate, new initial weights, more epochs.

    References
        Zhang et al., AUTOTRAINER, ICSE 2021, section III; Sen, JASA 1968; Smith, WACV 2017.
    """

    problem = "slow_convergence"
    code = "AT302"
    aliases = ("slow", "slow_training")
    needs = OUTCOME_NEEDS | STEP_NEEDS
    causes = (
        "missing_zero_grad",
        "wrong_training_mode",
        "parameters_not_optimized",
        "wrong_schedule",
        "improper_output_activation",
        "improper_loss",
        "target_mismatch",
        "abnormal_data",
        "unscaled_targets",
        "insufficient_capacity",
        "unshuffled_data",
        "learning_rate_too_high",
        "learning_rate_too_low",
        "dying_relu",
        "saturated_activation",
        "vanishing_gradient",
        "attention_entropy_collapse",
        "stale_second_moment",
        "exploding_gradient",
        "poor_initialization",
        "abnormal_update_ratio",
        "oscillating_loss",
    )
    repairs = (
        "swap_optimizer",
        "scale_learning_rate",
        "reinitialize",
        "insert_normalization",
        "swap_activation",
        "extend_training",
        "add_residual",
    )
    THRESHOLDS = thresholds(
        gain=Threshold(0.01, "gain of accuracy per epoch, at most", "AUTOTRAINER", maximum=1, alias="delta"),
        schedule=Threshold(0.15, "share of the schedule before it is judged", "delay target of 20 %", maximum=1),
        travel=Threshold(0.1, "change of the weights by the end ÷ their size, at most", "calibrated"),
        skill=Threshold(0.2, "skill expected by the end, at most", "calibrated", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        if len(history.steps) < 10 or np.isinf(history.losses[1][-1:]).any():
            return None  # what is not finite is for nonfinite to tell
        result = outcome(history, context)
        if (
            not result.known
            or not result.mature(self.threshold("schedule"))
            or (result.escaping and result.progress < 0.9)
        ):
            return None
        found = self._by_travel(history, result) or self._by_trend(history, context, result)
        return found or self._by_batch(history, result) or self._low(result)

    def _by_travel(self, history: RunHistory, result: Outcome) -> Finding | None:
        """Find steps so small that the weights stay about where they began, however long the schedule lasts."""
        ratios = history.layer("update_ratio")[1:, weight_layers(history)]
        ratios = ratios[np.isfinite(ratios)]
        if not ratios.size:
            return None
        ratio = float(np.median(ratios))
        travel = np.fmax(ratio * result.planned, steps_taken(history).travel)  # large at first, at rest since
        enough = _GOOD if travel <= _STANDING else _FAIR
        if not travel <= self.threshold("travel") or result.learned(enough) or result.skill > enough:
            return None
        message = (
            f"A step changes the weights by {ratio:.1g} of their size: by the end of the schedule that is at most "
            f"{travel:.1%}, and {result.words} after {result.steps} steps."
        )
        evidence = {"update_ratio": ratio, "travel": travel, "skill": result.skill, "progress": result.progress}
        return self.finding(result.worst, 0.86, message, evidence)

    def _by_trend(self, history: RunHistory, context: TaskContext, result: Outcome) -> Finding | None:
        """Find a loss that falls too slowly for the schedule."""
        if not result.mature(min(1.0, 2 * self.threshold("schedule"))):
            return None
        epochs, accuracy = history.epochs("accuracy" if "accuracy" in history.epoch_names else "val_accuracy")
        half = len(epochs) // 2
        gain = theil_sen(epochs[half:], accuracy[half:]).slope
        if gain > self.threshold("gain"):
            return None
        expected = self._expected(result, gain, len(epochs), context.planned_epochs)
        left = 0.0 if math.isnan(result.progress) else 1 - result.progress
        # The longer the run still lasts, the less a straight line says about its end.
        least = self.threshold("skill") * (2 / 3 if result.regression else 1)  # as for `Outcome.stuck`
        if result.high + expected > least * (1 - 0.5 * left) or result.fell < _REAL:
            return None
        if result.regression and result.low > 0:  # noise may leave no more to explain, as for `Outcome.stuck`
            return None
        evidence = {
            "skill": result.skill,
            "expected_gain": expected,
            "loss_to_come": result.to_come,
            "progress": result.progress,
            "accuracy_per_epoch": gain,
        }
        message = (
            f"The loss fell by {result.fell / (1 + result.fell):.1%} over the last half of the run: too slow for the "
            f"schedule, since {result.words} after {result.steps} steps."
        )
        return self.finding(result.worst, 0.75, message, evidence)

    def _by_batch(self, history: RunHistory, result: Outcome) -> Finding | None:
        """Find an ended run of many epochs that had one or two steps each, since a batch holds about all rows."""
        few = result.steps <= min(_WHOLE * history.epoch, _HARDLY) and history.epoch >= _MANY_EPOCHS
        if not few or result.progress < _END or result.skill >= _FINE:
            return None
        course, held_out = pace(loss_series(history)), pace(history.epochs("val_loss")[1])
        if course is None or not course.falling or course.sure < SURE:
            return None
        if (course.gain if held_out is None else min(course.gain, held_out.gain)) < _TO_GAIN:
            return None
        rows = float(np.nanmedian(history.scalar("batch_size")))
        held = f"a batch holds {rows:.0f} rows" if rows > 0 else "a batch holds that many rows"
        message = (
            f"{history.epoch} epochs were {result.steps} steps, since {held}: too few steps, for the loss still fell "
            f"by {course.fall:.0%} in the last third, and {result.words}."
        )
        evidence = {"steps": float(result.steps), "batch_size": rows, "fall": course.fall, "skill": result.skill}
        poor = result.high <= _POOR
        return self.finding(result.worst if poor else Severity.WARNING, 0.85 if poor else 0.6, message, evidence)

    def _low(self, result: Outcome) -> Finding | None:
        """Find a model that has learned little by half time and moves no more; data may be noisy, so worth a look."""
        little = result.high <= (_FAIR * 2 / 3 if result.regression else _FAIR)
        if result.stuck() or not little or not result.mature(0.5) or result.moving(_REAL):
            return None
        words = f"it {result.words.removeprefix('the loss ')}" if result.by_loss else result.words
        message = f"The loss falls no more, although {words} after {result.steps} steps."
        evidence = {"skill": result.skill, "loss_to_come": result.to_come, "progress": result.progress}
        return self.finding(Severity.WARNING, 0.4, message, evidence)

    @staticmethod
    def _expected(result: Outcome, gain: float, epochs: int, planned: int | None) -> float:
        """Return the skill that is still to be gained at the present pace."""
        expected = max(0.0, 1 - max(0.0, result.skill)) * min(1.0, result.to_come)
        if planned and math.isfinite(gain) and epochs >= 8 and not result.regression and result.trivial < 1:
            return max(expected, gain * (planned - epochs) / (1 - result.trivial))
        return expected
