"""AT303: a model that stays at the level of a constant prediction."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.baseline_models import SIMPLE_NEEDS, with_simple_model
from autotrainer.rules._shared.layers import inputs_vary
from autotrainer.rules._shared.loss_terms import Terms, has_objective
from autotrainer.rules._shared.outcome import (
    CAUSES_OF_NO_SKILL,
    OUTCOME_NEEDS,
    Outcome,
    constant_outputs,
    enough_samples,
    outcome,
)
from autotrainer.rules._shared.skill import targets_growth
from autotrainer.rules._shared.trends import last_median, recent, solved
from autotrainer.rules._shared.words import about

__all__ = ["NotLearning"]

_SAMPLES = 10
_ZERO_STEPS = 3
"""Last losses that are exactly zero if gradients of zero mean that nothing is left to learn."""

_BARE_SKILL = 0.2
"""Skill up to which an accuracy that never changes shows a constant prediction: class frequencies in small samples of
training and validation data differ by as much."""

_MIXED = 0.1
"""Share of losses on either side of zero from which the loss is a surrogate, such as that of a policy gradient, whose
value does not measure success."""

_LITTLE, _ALIKE = 0.02, 1e-4
"""Smallest fall of the loss ÷ its value that counts; and scatter of the first losses ÷ their value below which all
batches hold the same rows, so that the scatter sets no scale."""

_RISEN = 1.5
"""Loss ÷ that at the start from which `divergence` reports it, or the loss does not measure success."""

_ALIKE_OUTPUTS, _CONSTANT_SCHEDULE = 0.02, 0.15
"""Spread of probabilities ÷ their mean up to which they tell nothing apart, where the score is unknown: that of rare
events varies by as much as it; and share of the schedule before this is an error."""

_CONSTANT = "The output is the same for all inputs"

_NOT_FINITE = "The loss is NaN or infinite"

_SAME_EPOCHS = 5
"""Fewest epochs over which an accuracy must be identical."""


class NotLearning(Rule):
    """The model is no better than a constant prediction, and the loss does not decrease.

    What it does
        Compares the model with the trivial predictor (most common class, mean of the targets) over the last half of the
        run.

    Why it hurts
        The model has learned nothing from the inputs, and longer training of the same kind will not change that.

    Evidence used
        Accuracy or squared error of sampled batches, epochs and validation, with a confidence interval; cross-entropy
        if batches are too small for that; trend of the loss and how much further it is expected to fall within the
        schedule; growth of the gradients (a sign of leaving a plateau); gradients of exactly zero; outputs that do not
        depend on the input; an accuracy that is identical epoch after epoch.

    Thresholds
        ``skill``: share of the way from the trivial to the perfect score below which nothing has been learned;
        ``schedule``: share of the planned training after which that is an error; ``dead_schedule``: the same for
        constant outputs; ``to_come``: expected further fall of the loss above which the verdict is postponed.

    When it is wrong
        Data without any signal looks the same. It is at most a warning while a run of unknown length goes on (and only
        after 200 steps), or if only the loss is known, unless probabilities
        do not differ between inputs. Losses around zero, or with a term below zero (policy gradients), or of several
        optimizers (adversarial training) do not measure success and are not judged.

    Repairs
        Learning rate, optimizer, new initial weights, activation, or normalization.

    References
        Karpathy, A Recipe for Training Neural Networks, 2019; Wilson, JASA 1927.
    """

    problem = "not_learning"
    code = "AT303"
    aliases = ("stuck", "no_learning", "chance_level")
    phrases = (
        "accuracy stuck",
        "accuracy does not improve",
        "accuracy does not change",
        "loss does not decrease",
        "loss is not decreasing",
        "loss is constant",
        "model predicts the same class",
        "model always predicts one class",
    )
    needs = OUTCOME_NEEDS | frozenset({"output_row_sum"}) | SIMPLE_NEEDS
    causes = (
        *CAUSES_OF_NO_SKILL,
        "abnormal_update_ratio",
        "slow_convergence",
        "oscillating_loss",
        "abnormal_initial_loss",
    )
    repairs = (
        "scale_learning_rate",
        "swap_optimizer",
        "reinitialize",
        "insert_normalization",
        "swap_activation",
        "add_residual",
        "resize_hidden_layers",
        "replace_train_step",
    )
    THRESHOLDS = thresholds(
        skill=Threshold(0.15, "skill over the trivial predictor, at most", "calibrated", maximum=1),
        schedule=Threshold(0.25, "share of the schedule before an error", "calibrated", maximum=1),
        dead_schedule=Threshold(0.05, "the same for constant outputs", "calibrated", maximum=1),
        to_come=Threshold(0.02, "expected fall of the loss that postpones the verdict", "calibrated", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        finding = self._without_baseline(history, context)
        return None if finding is None else with_simple_model(finding, context)

    def _without_baseline(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if not enough_samples(history):
            return None
        result = outcome(history, context)
        evidence = {
            "skill_high": result.high,
            "score": result.score,
            "trivial_score": result.trivial,
            "progress": result.progress,
            "loss_to_come": result.to_come,
        }
        norms = history.scalar("grad_norm")[-_SAMPLES:]
        if (norms == 0).all() and solved(history.losses[1], _ZERO_STEPS):
            return None
        if (norms == 0).all() and not result.learned(0.3):
            message = f"All gradients were exactly zero in the last {len(norms)} sampled steps"
            zero = not result.known and bool((history.losses[1][-_ZERO_STEPS:] == 0).all())  # such as equal returns
            severity, confidence = (Severity.WARNING, 0.5) if zero else (Severity.ERROR, 0.97 if result.known else 0.9)
            return self._with_outcome(severity, confidence, message, evidence, result)
        if not result.known:
            return self._by_loss(history, context, result, evidence)
        moving = result.moving(self.threshold("to_come"))
        constant = constant_outputs(history)
        evidence["output_spread"] = float(last_median(history.scalar("output_spread")[:, None])[0])
        same = _same_accuracy(history)
        if same and result.skill <= _BARE_SKILL and not moving and result.mature(self.threshold("schedule")):
            message = (
                _CONSTANT
                if constant
                else f"Accuracy has not changed for {same} epochs (as if the model always predicted the same class)"
            )
            return self._with_outcome(result.worst, 0.85, message, evidence, result)
        early = not result.mature(0.5)  # early verdicts require clearer cases
        if not result.stuck(self.threshold("skill") * (2 / 3 if early else 1)):
            return None
        if constant and not moving and result.mature(self.threshold("dead_schedule")):
            return self._with_outcome(result.worst, 0.9, _CONSTANT, evidence, result)
        if not moving and result.mature(self.threshold("schedule")):
            return self._with_outcome(result.worst, 0.6, self._loss_in_words(history, result), evidence, result)
        return None

    def _by_loss(
        self, history: RunHistory, context: TaskContext, result: Outcome, evidence: dict[str, float]
    ) -> Finding | None:
        """Judge by the loss and the outputs alone: losses are at most a warning, as some do not measure success."""
        _, losses = history.losses
        losses = losses[np.isfinite(losses)]
        if history.targets.count and history.targets.variance == 0:
            return None  # such as the labels of a generator's samples: nothing to tell apart
        if len(losses) < 4 * _SAMPLES or result.moving(0.02) or context.optimizer.several:
            return None
        if np.mean(losses < 0) > _MIXED < np.mean(losses > 0) or has_objective(Terms.of(history).values):
            return None
        if result.mature(_CONSTANT_SCHEDULE) and _constant_probabilities(history, context, evidence):
            return self._with_outcome(result.worst, 0.85, _CONSTANT, evidence, result)
        if not result.mature(0.3):
            return None
        start, now = (float(np.mean(part)) for part in (losses[:_SAMPLES], losses[-2 * _SAMPLES :]))
        if _falls(losses, targets_growth(history)) or now >= _RISEN * abs(start) or _explains(history):
            return None
        evidence |= {"first_loss": start, "loss": now}
        message = (
            f"The loss has not clearly decreased: it is {about(now, 3)} after {result.steps} steps and was "
            f"{about(start, 3)} at the start."
        )
        return self.finding(Severity.WARNING, 0.5, message, evidence)

    def _loss_in_words(self, history: RunHistory, result: Outcome) -> str:
        if np.isinf(history.losses[1][-1:]).any():
            return _NOT_FINITE
        return "The loss is flat" if result.fell < self.threshold("to_come") else "The loss fell too little"

    def _with_outcome(
        self, severity: Severity, confidence: float, message: str, evidence: dict[str, float], result: Outcome
    ) -> Finding:
        subject = next((name for name in ("The loss ", "Accuracy ") if message.startswith(name)), "").lower()
        words = result.words.removeprefix(subject)
        joint = " and " if words != result.words else ", and "
        words = f"{joint}{words}" if words and message != _NOT_FINITE else ""
        return self.finding(severity, confidence, f"{message}{words} after {result.steps} steps.", evidence)


def _constant_probabilities(history: RunHistory, context: TaskContext, evidence: dict[str, float]) -> bool:
    """Return whether probabilities have hardly differed between inputs in the last half of the run."""
    if context.output_activation not in ("softmax", "sigmoid") or not context.output_units:
        return False
    late = recent(history.steps)
    spread, mean = history.scalar("output_spread")[late], history.scalar("output_row_sum")[late] / context.output_units
    known = np.isfinite(spread)  # not between equal inputs
    spread, mean = spread[known], mean[known]
    if len(spread) < _SAMPLES or not inputs_vary(history):
        return False
    evidence["output_spread"] = float(np.median(spread))
    with np.errstate(all="ignore"):
        return float(np.median(spread / np.minimum(mean, np.abs(1 - mean)))) <= _ALIKE_OUTPUTS


def _falls(losses: Floats, growth: float) -> bool:
    """Return whether losses have fallen beyond their noise, by mean or median; targets that grow make larger losses.

    The fall must be 2 % of the loss, or the scatter between batches: a constant term in the loss enlarges the former.
    """
    first, late, last = losses[:_SAMPLES], losses[len(losses) // 2 :], losses[-2 * _SAMPLES :]
    start = float(np.mean(first))
    scatter = float(np.std(np.diff(first))) / math.sqrt(2)
    least = _LITTLE * abs(start)
    least = min(least, scatter) if scatter >= _ALIKE * abs(start) else least
    noise = 3 * float(np.std(last)) / math.sqrt(len(last))
    if float(np.mean(last)) < start * growth - max(noise, least):
        return True
    middle = float(np.median(late))
    spread = 1.48 * float(np.median(np.abs(late - middle)))  # robust standard deviation
    early = min(spread, float(np.std(first)))  # losses may scatter less at the start
    error = 1.25  # standard error of a median ÷ that of a mean
    noise = 3 * error * math.hypot(early / math.sqrt(len(first)), spread / math.sqrt(len(late)))
    return middle < float(np.median(first)) * growth - max(noise, least)


def _explains(history: RunHistory) -> bool:
    """Return whether outputs explain part of the targets of their own batch, even if targets grow between batches."""
    late = recent(history.steps)
    ratios = history.scalar("squared_error")[late] / history.scalar("target_spread")[late] ** 2
    ratios = ratios[np.isfinite(ratios)]
    return len(ratios) >= _SAMPLES and float(np.quantile(ratios, 0.75)) < 1


def _same_accuracy(history: RunHistory) -> int:
    """Return for how many epochs all accuracies have been identical, if over the last half; else 0."""
    accuracies = [history.epochs(name) for name in ("accuracy", "val_accuracy")]
    late = [(epochs[len(epochs) // 2 :], values[len(values) // 2 :]) for epochs, values in accuracies if len(epochs)]
    constant = bool(late) and all(len(v) >= _SAME_EPOCHS and float(np.ptp(v)) < 1e-6 for _, v in late)
    return min(int(epochs[-1] - epochs[0]) + 1 for epochs, _ in late) if constant else 0
