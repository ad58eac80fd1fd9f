"""AT411: a training that ends while it still improves."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.baseline_models import SIMPLE_NEEDS, lead_of_simple_model
from autotrainer.rules._shared.extrapolation import length_evidence
from autotrainer.rules._shared.held_out import held_out_skill
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome, planned_share
from autotrainer.rules._shared.pace import SURE, Pace, loss_series, pace
from autotrainer.rules._shared.trends import theil_sen

__all__ = ["TooFewEpochs"]

_END = 0.98
"""Share of the schedule from which its end is judged."""

_LITTLE = 0.4
"""Skill up to which a fall over the whole of a very short run suffices: noisy data can settle at little more."""

_FEW = 30
"""Steps that give a model no chance to become better than a constant prediction."""

_DECAYED = 0.2
"""Learning rate ÷ its maximum up to which a schedule has lowered it, so that the end was planned."""

_VANISHED = 0.02
"""Rate after the last step ÷ its maximum up to which the schedule ends with the training: the last step that is
measured may lie before. Larger drops may come after the last step, where a schedule is stepped once per epoch."""

_FAIR, _GOOD = 0.75, 0.9
"""Upper end of the interval of skill above which a model may be fair (the interval is wide with one dominant class);
and skill from which more epochs gain almost nothing."""

_PASSES = 5
"""Passes over the training data from which a falling training loss may be memorization: networks fit noise, too (Zhang
et al., ICLR 2017)."""

_VISIBLE = 0.02
"""Rise of accuracy or R² over the last third of the run that more epochs could repeat; and expected fall of the loss
without which they would gain nothing."""

_FEW_EPOCHS, _VISIBLE_LOSS = 5, 0.05
"""Epochs up to which the last one alone counts, and the share by which the validation loss must have fallen in it."""

_MUCH, _FINE = 0.5, 0.8
"""Expected fall of the loss with which the same number of further epochs would improve even a fair model; and skill
from which a model is good, as in `learning_rate_too_high`."""

_BEHIND = 0.1
"""Score of a simple model less that of the network from which there is much left to gain, as in
`worse_than_simple_model`."""

_EPOCHS = 4
"""Fewest epochs for a trend of accuracy."""


class TooFewEpochs(Rule):
    """The training ends although loss and score still improve.

    What it does
        At the end of the schedule, extends the fall of the loss by the same number of epochs.

    Why it hurts
        The model is worse than the same model would be after longer training: the cheapest of all faults to fix.

    Evidence used
        Means of training and validation loss over the thirds of the run, the standard error of their difference, and
        the factor by which the fall shrinks from third to third; skill over the trivial predictor; validation accuracy;
        the learning rate. In a run with too few steps to show a plateau, a fall over the whole run. The score of simple
        models on sampled rows: where they are far ahead, a loss that still falls has far to go, however slowly.

    Thresholds
        ``gain``: expected fall ÷ present loss, at least; ``skill``: skill up to which it is an error, else a warning;
        ``steps``: steps of a whole run that are rarely enough. After so few, a loss that would halve is an error up to
        skill 0.8, and in a run of a few epochs the fall of the validation loss in the last one counts.

    When it is wrong
        Training loss can keep falling after the validation score has settled: if the validation loss rises, or the
        validation accuracy of a fair model no longer changes, nothing is reported, nor for a fair model without
        validation data after more than a few epochs. The end of a decayed learning rate was planned. Slow progress has
        other causes too (rate, initialization, loss), which then come first. Without a known schedule it is a warning.

    Repairs
        More epochs, until the validation score no longer rises.

    References
        Humbatova et al., Taxonomy of Real Faults in Deep Learning Systems, ICSE 2020; Cao et al., DeepFD, ICSE 2022;
        Domhan, Springenberg and Hutter, IJCAI 2015 (extrapolation of learning curves).
    """

    problem = "too_few_epochs"
    code = "AT411"
    aliases = ("few_epochs", "stopped_too_early", "undertrained", "not_converged", "more_epochs")
    phrases = (
        "how many epochs",
        "not enough epochs",
        "training stopped too early",
        "loss still decreasing at the end",
        "model has not converged",
        "train longer",
    )
    needs = OUTCOME_NEEDS | SIMPLE_NEEDS | frozenset({"learning_rate", "final_rate"})
    causes = (
        "checkpoint_not_loaded",
        "abnormal_normalization",
        "sibling_outlier",
        "wrong_schedule",
        "wrong_accumulation",
        "nonfinite",
        "nonfinite_data",
        "improper_output_activation",
        "target_mismatch",
        "improper_loss",
        "unscaled_targets",
        "abnormal_data",
        "learning_rate_too_high",
        "dying_relu",
        "vanishing_gradient",
        "attention_entropy_collapse",
        "poor_initialization",
        "unshuffled_data",
        "class_imbalance",
        "insufficient_capacity",
        "learning_rate_too_low",
        "slow_convergence",
    )
    repairs = ("extend_training",)
    THRESHOLDS = thresholds(
        gain=Threshold(0.1, "expected fall of the loss over the same number of further epochs, at least", "calibrated"),
        skill=Threshold(0.6, "skill over the trivial predictor up to which it is an error", "calibrated", maximum=1),
        steps=Threshold(100, "steps of a whole run that are rarely enough", "calibrated"),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        result = outcome(history, context)
        if planned_share(history, context) < _END:
            return None  # stopped before its end, as by early stopping
        planned = context.planned_epochs or math.inf
        ended = history.finished or history.epoch >= planned  # not before: the finding may end the training
        at_end = ended and (result.progress >= _END or (history.finished and math.isnan(result.progress)))
        if not at_end or not result.known or result.diverged or _decayed(history, context):
            return None
        skill = float(np.fmax(result.skill, held_out_skill(history, context, 1)))
        training = pace(*loss_series(history))
        if training is None or skill >= _GOOD or _worse(history):
            return None
        held_out = pace(*history.epochs("val_loss"))
        gain = training.gain if held_out is None else min(training.gain, held_out.gain)
        brief = result.steps <= self.threshold("steps")
        still = brief and training.falling and (result.high <= _LITTLE or _fell_at_last(history))
        hopeless = result.steps <= _FEW and result.stuck()
        still |= hopeless
        certain = training.sure >= SURE and gain >= self.threshold("gain")
        lead = lead_of_simple_model(history, context)
        behind = lead is not None and lead.gap >= _BEHIND
        behind &= training.falling and training.sure >= SURE and training.fall >= _VISIBLE
        if not (still or certain or behind):
            return None
        poor = skill <= self.threshold("skill") and result.high <= _FAIR
        poor |= brief and certain and gain >= _MUCH and skill < _FINE
        poor |= behind
        if not poor and (_may_memorize(history) or not _score_rises(history, result, held_out or training)):
            return None
        planned_length = context.planned_epochs or context.planned_steps
        proven = planned_length and (hopeless or gain >= _VISIBLE)
        severity = result.worst if poor and proven else Severity.WARNING
        falling = training.fall > _VISIBLE
        course = f"the loss still fell by {training.fall:.0%} in the last third, and " if falling else ""
        message = f"Training ended too early, after {result.steps} steps: {course}{result.words}."
        message += f" {lead.simple.sentence}" if lead is not None and behind else ""
        evidence = {
            "fall": training.fall,
            "gain_to_come": gain,
            "standard_errors": training.sure,
            "skill": skill,
            "steps": float(result.steps),
            **length_evidence(history),
        }
        return self.finding(severity, 0.8 if poor else 0.6, message, evidence)


def _fell_at_last(history: RunHistory) -> bool:
    """Return whether the validation loss, on the same rows each time, still fell in the last of a few epochs."""
    losses = history.epochs("val_loss")[1]
    return 2 <= len(losses) <= _FEW_EPOCHS and bool(losses[-1] <= (1 - _VISIBLE_LOSS) * losses[-2])


def _may_memorize(history: RunHistory) -> bool:
    """Return whether only rows that the model may have memorized were evaluated."""
    return history.epoch > _PASSES and not any(name.startswith("val_") for name in history.epoch_names)


def _decayed(history: RunHistory, context: TaskContext) -> bool:
    """Return whether a schedule has lowered the learning rate by the end."""
    rates = history.scalar("learning_rate")
    rates = rates[np.isfinite(rates)]
    if not rates.size:
        return False
    final = context.asked.get("final_rate", math.inf)
    return bool(rates[-1] <= _DECAYED * rates.max() or final <= _VANISHED * rates.max())


def _worse(history: RunHistory) -> bool:
    """Return whether the validation loss no longer falls: it rises, or its best value is not in the last third."""
    losses = history.epochs("val_loss")[1]
    if len(losses) < 4:
        return False
    return (
        bool(np.argmin(losses) < 2 * len(losses) // 3)
        or theil_sen(np.arange(len(losses) - len(losses) // 2), losses[len(losses) // 2 :]).rising
    )


def _score_rises(history: RunHistory, result: Outcome, course: Pace) -> bool:
    """Return whether the score rose over the last third of the run, on validation data if there is any."""
    if result.regression:
        return course.absolute >= _VISIBLE * history.targets.variance
    values = history.epochs("val_accuracy" if "val_accuracy" in history.epoch_names else "accuracy")[1]
    late = values[-max(_EPOCHS, len(values) // 3) :]
    if len(late) < _EPOCHS:  # too few epochs for a trend
        return True
    trend = theil_sen(np.arange(len(late)), late)
    return trend.rising and trend.slope * len(late) >= _VISIBLE
