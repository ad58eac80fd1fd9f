"""AT302: real progress that is far too slow for the schedule."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import is_pretrained, weight_layers
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, enough_samples, outcome
from autotrainer.rules._shared.pace import SURE, loss_series, pace
from autotrainer.rules._shared.steps import STEP_NEEDS, rate_rises, steps_taken
from autotrainer.rules._shared.trends import theil_sen
from autotrainer.rules._shared.words import about

__all__ = ["SlowConvergence"]

_REAL = 0.02
"""Smallest fall of the loss over the last half of the run ÷ loss: with less, training is stuck, not slow."""

_FAIR, _GOOD = 0.3, 0.8
"""Skill from which the pace was evidently sufficient, and from which it does not matter."""

_FEWEST = 5
"""Fewest samples that show the size of steps."""

_END = 0.98
"""Share of the schedule from which its end is judged."""

_FULL_BATCH, _FEW_STEPS, _MANY_EPOCHS = 2, 100, 10
"""Steps per epoch up to which a batch holds almost all rows; steps that are rarely enough; and epochs that usually give
enough steps."""

_MIN_GAIN = 0.1
"""Smallest expected fall of the loss over the same number of further epochs, as in `too_few_epochs`."""

_POOR, _FINE = 0.75, 0.9
"""Upper end of the interval of skill up to which too few steps are an error, and skill from which they do not matter,
as in `too_few_epochs`."""

_UNMOVED = 0.02
"""Change of the weights by the end ÷ their norm up to which they are unchanged: any skill was there at the start.
Fine-tuning may need little more (Radiya-Dixit and Wang, AISTATS 2020)."""


class SlowConvergence(Rule):
    """The model still learns, but too slowly to become good within the schedule.

    What it does
        Extends the trend of loss and score to the end of the schedule and compares the result with what is left to
        gain.

    Why it hurts
        Training ends with a model that is clearly worse than the same model could be.

    Evidence used
        Robust trends (Theil–Sen) over the last half of the run: of the loss, and of the accuracy per epoch; skill over
        the trivial predictor with its interval; share of the schedule done. A single lucky epoch hardly changes either
        trend, and an early plateau leaves the window as the run goes on. Size of a step relative to the weights, times
        all steps of the schedule: a bound on how far the weights can move. At the end, the number of steps if a batch
        holds almost all rows, and whether the loss still fell.

    Thresholds
        ``gain`` is delta of AUTOTRAINER, here the gain of accuracy per epoch by the trend; ``schedule`` is the share of
        the planned training from which the size of steps is judged, twice that for trends; ``skill`` is the skill that
        the run must reach by its end; ``travel`` is how far steps of the present size can move the weights, relative to
        their norm. If that is below 0.02, skill up to 0.8 does not excuse it, as it was not learned in this run; in the
        first half of a fine-tuning, only that counts.

    When it is wrong
        Plateaus that end on their own late in the run, and rates that will rise later. Small steps count only if they
        have been small from the start, not at the optimum of noisy data. Without a known schedule, or if the score is
        fair, it is a warning.

    Repairs
        Another optimizer, a higher learning rate, new initial weights, or more epochs.

    References
        Zhang et al., AUTOTRAINER, ICSE 2021, section III; Sen, JASA 1968; Smith, WACV 2017.
    """

    problem = "slow_convergence"
    code = "AT302"
    aliases = ("slow", "slow_training")
    phrases = (
        "training is slow",
        "model learns too slowly",
        "loss decreases very slowly",
        "loss decreases slowly",
        "accuracy increases slowly",
        "slow convergence",
        "takes too many epochs",
    )
    needs = OUTCOME_NEEDS | STEP_NEEDS
    causes = (
        "missing_zero_grad",
        "wrong_training_mode",
        "parameters_not_optimized",
        "abnormal_normalization",
        "sibling_outlier",
        "wrong_schedule",
        "wrong_accumulation",
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
        "no_gradient",
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
    place = "optimizer"
    THRESHOLDS = thresholds(
        gain=Threshold(0.01, "gain of accuracy per epoch, at most", "AUTOTRAINER", maximum=1, alias="delta"),
        schedule=Threshold(
            0.15,
            "share of the schedule before a verdict",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
        travel=Threshold(0.1, "change of the weights by the end ÷ their norm, at most", "calibrated"),
        skill=Threshold(0.2, "skill expected by the end, at most", "calibrated", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if np.isinf(history.losses[1][-1:]).any():
            return None  # reported by nonfinite
        result = outcome(history, context)
        if not enough_samples(history):
            ready = len(history.steps) >= _FEWEST and result.known and result.mature(self.threshold("schedule"))
            to_come = steps_taken(history).typical * result.planned  # the first samples may lie in a warm-up
            small = to_come <= self.threshold("travel") and not rate_rises(history)
            return self._by_travel(history, result) if ready and small else None
        if not result.known:
            return self._unmoved(history, context, result)
        if not result.mature(self.threshold("schedule")) or (result.escaping and result.progress < 0.9):
            return None
        too_slow = self._by_travel(history, result) or self._by_trend(history, context, result)
        return too_slow or self._by_batch(history, context, result) or self._low(result)

    def _by_travel(self, history: RunHistory, result: Outcome) -> Finding | None:
        """Return a finding if steps are so small that the weights hardly move within the schedule."""
        ratios = history.layer("update_ratio")[1:, weight_layers(history)]
        ratios = ratios[np.isfinite(ratios)]
        if not ratios.size:
            return None
        ratio = float(np.median(ratios))
        travel = np.fmax(ratio * result.planned, steps_taken(history).travel)  # early steps may be larger
        enough = _GOOD if travel <= _UNMOVED else _FAIR
        tuned = is_pretrained(layer for layer in history.layers if not layer.frozen) and not result.mature(0.5)
        if (
            not travel <= (_UNMOVED if tuned else self.threshold("travel"))
            or result.learned(enough)
            or result.skill > enough
        ):
            return None
        message = (
            f"Steps are too small: each changes the weights by {ratio:.1g} times their norm, all steps of the schedule "
            f"by at most {travel:.1%}, and {result.words} after {result.steps} steps."
        )
        evidence = {"update_ratio": ratio, "travel": travel, "skill": result.skill, "progress": result.progress}
        return self.finding(result.worst, 0.86, message, evidence)

    def _unmoved(self, history: RunHistory, context: TaskContext, result: Outcome) -> Finding | None:
        """Return a finding if neither weights nor loss have moved, whatever the loss measures."""
        if not result.mature(0.5) or context.optimizer.several or result.trend.falling:
            return None
        travel = steps_taken(history).travel
        losses = history.losses[1][np.isfinite(history.losses[1])]
        count = len(losses) // 2
        if not 0 < travel <= _UNMOVED or count < 2:
            return None
        first, last = (float(np.mean(part)) for part in (losses[:count], losses[-count:]))
        if abs(first - last) > _REAL * abs(first):
            return None
        message = (
            f"Steps are too small: all {result.steps} steps changed the weights by at most {travel:.1%} of their norm, "
            f"and the mean loss is {about(last, 3)} in the second half, after {about(first, 3)} in the first."
        )
        evidence = {"travel": travel, "first_loss": first, "loss": last, "progress": result.progress}
        return self.finding(result.worst, 0.8, message, evidence)

    def _by_trend(self, history: RunHistory, context: TaskContext, result: Outcome) -> Finding | None:
        """Return a finding if the loss falls too slowly for the schedule."""
        if not result.mature(min(1.0, 2 * self.threshold("schedule"))):
            return None
        epochs, accuracy = history.epochs("accuracy" if "accuracy" in history.epoch_names else "val_accuracy")
        half = len(epochs) // 2
        gain = theil_sen(epochs[half:], accuracy[half:]).slope
        if gain > self.threshold("gain"):
            return None
        done = int(epochs[-1]) + 1 if len(epochs) else 0
        expected = self._expected(result, gain, done, context.planned_epochs)
        left = 0.0 if math.isnan(result.progress) else 1 - result.progress
        # The more of the run is left, the less a straight line predicts its end.
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
            f"Training is too slow for the schedule: the loss fell by {result.fell / (1 + result.fell):.1%} over the "
            f"last half of the run, and {result.words} after {result.steps} steps."
        )
        return self.finding(result.worst, 0.75, message, evidence)

    def _by_batch(self, history: RunHistory, context: TaskContext, result: Outcome) -> Finding | None:
        """Return a finding if a run of many epochs ended with too few steps, as a batch holds almost all rows."""
        few = result.steps <= min(_FULL_BATCH * history.epoch, _FEW_STEPS) and history.epoch >= _MANY_EPOCHS
        if not few or result.progress < _END or result.skill >= _FINE:
            return None
        training, held_out = pace(*loss_series(history)), pace(*history.epochs("val_loss"))
        if training is None or not training.falling or training.sure < SURE:
            return None
        if (training.gain if held_out is None else min(training.gain, held_out.gain)) < _MIN_GAIN:
            return None
        rows = float(np.nanmedian(history.scalar("batch_size")))
        batch = f"a batch holds {rows:.0f} rows" if rows > 0 else "a batch holds almost all rows"
        message = (
            f"Too few steps: {history.epoch} epochs were only {result.steps} steps, as {batch}; the loss still fell by "
            f"{training.fall:.0%} in the last third, and {result.words}."
        )
        evidence = {"steps": float(result.steps), "batch_size": rows, "fall": training.fall, "skill": result.skill}
        planned = context.planned_epochs or context.planned_steps
        poor = result.high <= _POOR and (planned or result.stuck())
        return self.finding(result.worst if poor else Severity.WARNING, 0.85 if poor else 0.6, message, evidence)

    def _low(self, result: Outcome) -> Finding | None:
        """Return a warning if the model has learned little by half time and the loss will not fall any further."""
        little = result.high <= (_FAIR * 2 / 3 if result.regression else _FAIR)
        if result.stuck() or not little or not result.mature(0.5) or result.moving(_REAL):
            return None
        words = f"it {result.words.removeprefix('the loss ')}" if result.by_loss else result.words
        course = "The loss has stopped falling, but"
        if result.fell >= _REAL:  # at the end of the run
            course = f"The loss fell by {result.fell / (1 + result.fell):.1%} over the last half of the run, but"
        message = f"{course} {words} after {result.steps} steps."
        evidence = {"skill": result.skill, "loss_to_come": result.to_come, "progress": result.progress}
        return self.finding(Severity.WARNING, 0.4, message, evidence)

    @staticmethod
    def _expected(result: Outcome, gain: float, epochs: int, planned: int | None) -> float:
        """Return the skill that the rest of the run will gain at the present pace."""
        expected = max(0.0, 1 - max(0.0, result.skill)) * min(1.0, result.to_come)
        if planned and math.isfinite(gain) and epochs >= 8 and not result.regression and result.trivial < 1:
            return max(expected, gain * (planned - epochs) / (1 - result.trivial))
        return expected
