"""AT411: a training that ends while it still gets better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from autotrainer.findings import Finding, Severity
from autotrainer.history import RunHistory
from autotrainer.rule import Rule, Threshold
from autotrainer.rules._held_out import held_out_skill
from autotrainer.rules._outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._trends import blocks, theil_sen
from autotrainer.signals import Floats
from autotrainer.task import TaskContext

__all__ = ["TooFewEpochs"]

_END = 0.98
"""Share of the schedule from which its end is judged."""

_LEAST = 6
"""Losses, at least: two for each third of the run."""

_LITTLE = 0.4
"""Skill up to which a fall over the whole of a very short run suffices: noisy data can come to rest at little more."""

_FEW = 30
"""Steps with which a model that is no better than a constant answer has had no chance to be."""

_SURE = 2.5
"""Standard errors that the loss must have fallen from the second to the last third of the run."""

_DECAYED = 0.2
"""Learning rate ÷ its largest up to which a schedule has brought it down: that end was planned."""

_FAIR, _GOOD = 0.75, 0.9
"""Upper end of the interval of skill above which a model may be fair: the interval is wide where one class is most.
And skill from which more epochs have next to nothing to give."""

_VISIBLE = 0.02
"""Rise of accuracy or R² over the last third of the run that more epochs could repeat."""

_EPOCHS = 4
"""Epochs, at least, that a trend of accuracy takes."""


@dataclass(frozen=True, slots=True)
class _Pace:
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


class TooFewEpochs(Rule):
    """The training ends although loss and score still improve.

    What it does
        At the end of the schedule, extends the fall of the loss by as many epochs again.

    Why it hurts
        The model is worse than the same model, trained on, would be: the cheapest of all faults to mend.

    Evidence used
        Means of training and validation loss over the thirds of the run, the standard error of their difference, and
        the share by which the fall shrinks from third to third; skill over the trivial predictor; validation accuracy;
        the learning rate. In a run of very few steps, which are too few to tell a plateau, a fall over the whole run.

    Thresholds
        ``gain``: expected fall ÷ present loss, at least; ``skill``: skill up to which it is an error, else a
        warning; ``steps``: steps of a whole run that are hardly ever enough.

    When it is wrong
        Training loss can fall for ever while the validation score has come to rest: where a validation loss rises, or
        the validation accuracy of a fair model stands still, nothing is said. The end of a decayed learning rate is a
        planned one. Slow progress has other reasons too (rate, initialization, loss), which then come first.
        Without a known schedule it is a warning.

    Repairs
        None of its own: train longer, until the validation score no longer rises.

    References
        Humbatova et al., Taxonomy of Real Faults in Deep Learning Systems, ICSE 2020; Cao et al., DeepFD, ICSE 2022;
        Domhan, Springenberg and Hutter, IJCAI 2015 (extrapolation of learning curves).
    """

    problem = "too_few_epochs"
    code = "AT411"
    aliases = ("few_epochs", "stopped_too_early", "undertrained", "not_converged", "more_epochs")
    needs = OUTCOME_NEEDS | frozenset({"learning_rate"})
    causes = (
        "wrong_schedule",
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
        "poor_initialization",
        "unshuffled_data",
        "class_imbalance",
        "insufficient_capacity",
        "learning_rate_too_low",
        "slow_convergence",
    )
    repairs = ()
    THRESHOLDS: ClassVar[Mapping[str, Threshold]] = MappingProxyType(
        {
            "gain": Threshold(0.1, "expected fall of the loss over as many epochs again, at least", "calibrated"),
            "skill": Threshold(
                0.6, "skill over the trivial predictor that is an error, at most", "calibrated", maximum=1
            ),
            "steps": Threshold(100, "steps of a whole run that are hardly ever enough", "calibrated"),
        }
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        result = outcome(history, context)
        at_end = result.progress >= _END or (history.finished and math.isnan(result.progress))
        if not at_end or not result.known or result.diverged or _decayed(history):
            return None
        skill = float(np.fmax(result.skill, held_out_skill(history, context, 1)))
        pace = _pace(_losses(history))
        if pace is None or skill >= _GOOD or _worse(history):
            return None
        held_out = _pace(history.epochs("val_loss")[1])
        gain = pace.gain if held_out is None else min(pace.gain, held_out.gain)
        poor = skill <= self.threshold("skill") and result.high <= _FAIR
        short = result.steps <= self.threshold("steps") and pace.falling and result.high <= _LITTLE
        short |= result.steps <= _FEW and result.stuck()
        if not short and not (pace.sure >= _SURE and gain >= self.threshold("gain")):
            return None
        if not poor and not _score_rises(history, result, held_out or pace):
            return None
        severity = result.worst if poor else Severity.WARNING
        how = (
            f" with a loss that was still falling, by {pace.fall:.0%} in the last third,"
            if pace.fall > _VISIBLE
            else ""
        )
        message = f"Training ended after {result.steps} steps{how} and {result.words}."
        evidence = {
            "fall": pace.fall,
            "gain_to_come": gain,
            "standard_errors": pace.sure,
            "skill": skill,
            "steps": float(result.steps),
        }
        return self.finding(severity, 0.8 if poor else 0.6, message, evidence)


def _losses(history: RunHistory) -> Floats:
    """Return the losses of single steps; of epochs where those are known better."""
    losses, means = (values[np.isfinite(values)] for values in (history.losses[1], history.epochs("loss")[1]))
    return losses if len(losses) >= max(_LEAST, history.step / 4) or len(means) < _LEAST else means


def _pace(losses: Floats) -> _Pace | None:
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
    return _Pace(fall, gain, sure, theil_sen(*blocks(np.arange(count), losses)).falling, last)


def _decayed(history: RunHistory) -> bool:
    """Whether a schedule has brought the learning rate down by the end."""
    rates = history.scalar("learning_rate")
    rates = rates[np.isfinite(rates)]
    return bool(rates.size) and bool(rates[-1] <= _DECAYED * rates.max())


def _worse(history: RunHistory) -> bool:
    """Whether the validation loss no longer falls: it rises, or its best is not among the last third."""
    losses = history.epochs("val_loss")[1]
    if len(losses) < 4:
        return False
    return (
        bool(np.argmin(losses) < 2 * len(losses) // 3)
        or theil_sen(np.arange(len(losses) - len(losses) // 2), losses[len(losses) // 2 :]).rising
    )


def _score_rises(history: RunHistory, result: Outcome, pace: _Pace) -> bool:
    """Whether the score itself rose over the last third of the run, as far as is known: on validation data, if any."""
    if result.regression:
        return pace.absolute >= _VISIBLE * history.targets.variance
    values = history.epochs("val_accuracy" if "val_accuracy" in history.epoch_names else "accuracy")[1]
    late = values[-max(_EPOCHS, len(values) // 3) :]
    if len(late) < _EPOCHS:  # too few epochs to tell
        return True
    trend = theil_sen(np.arange(len(late)), late)
    return trend.rising and trend.slope * len(late) >= _VISIBLE
