"""AT402: a loss that does not fit the targets."""

from __future__ import annotations

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.loss_values import LOSS_VALUE_NEEDS, computes_binary_entropy
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.ranges import output_range

__all__ = ["ImproperLoss"]

_SAMPLES = 5
"""Samples, from the first one on, in each of which the output must have had no say."""

_TINY = 1e-3
"""Loss ÷ entropy of the classes up to which a model must know nearly all answers; and spread of outputs ÷ their size
from which they differ."""

_RIGHT = 0.3
"""Skill from which a loss of zero may be success, as in `not_learning`."""


class ImproperLoss(Rule):
    """The loss does not fit the targets or the number of outputs.

    What it does
        Decides from the targets (class indices, one-hot, {0, 1}, {−1, 1}, real values) which losses make sense.

    Why it hurts
        A cross-entropy of targets outside 0 … 1 has no lowest point: it falls below zero without the model getting
        better. A single output can't tell more than two classes apart.

    Evidence used
        Kind, range and number of classes of the targets, number of outputs, and the sign of the loss. Losses of one's
        own are told by their numbers: binary cross-entropies of the copied rows; a loss and gradients that are zero
        from the start, while the single output varies and is wrong. For losses that are merely unusual, such as squared
        error for classes, the outcome decides.

    Thresholds
        ``schedule``: share of the planned training from which an unusual loss counts, where nothing has been learned.

    When it is wrong
        Squared error for classes and binary cross-entropy over one-hot targets are legitimate: with a model that
        learns they are never reported.

    Repairs
        The loss that belongs to the targets, or targets encoded for the loss.

    References
        Zhang et al., AUTOTRAINER, ICSE 2021, section III.
    """

    problem = "improper_loss"
    code = "AT402"
    aliases = ("wrong_loss", "wrong_loss_function", "loss_mismatch", "negative_loss")
    needs = OUTCOME_NEEDS | LOSS_VALUE_NEEDS | frozenset({"target_min", "target_max"})
    causes = ("nonfinite_data", "target_mismatch")
    repairs = ("fix_loss", "encode_targets", "fix_output_activation")
    static = True
    place = "loss"
    THRESHOLDS = thresholds(
        schedule=Threshold(0.15, "share of the schedule before it is judged", "delay target of 20 %", maximum=1)
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        targets = history.targets
        if targets.count == 0:
            return None
        evidence = {
            "target_min": targets.minimum,
            "target_max": targets.maximum,
            "classes": float(targets.classes),
            "outputs": float(context.output_units or np.nan),
        }
        result = outcome(history, context)
        reason = self._proven(history, context) or self._constant(history, context, result)
        if reason is not None:
            return self.finding(Severity.ERROR, 0.95, reason, evidence)
        reason = self._unusual(history, context)
        if reason is None or not result.known or not result.stuck() or result.moving():
            return None
        if not result.mature(self.threshold("schedule")):
            return None
        return self.finding(result.worst, 0.5, f"{reason}, and {result.words} after {result.steps} steps.", evidence)

    @staticmethod
    def _proven(history: RunHistory, context: TaskContext) -> str | None:
        """Return why loss and targets can't belong together, or None."""
        loss, targets, units = context.loss, history.targets, context.output_units
        signed = loss.name == "signed_logistic"  # takes -1 and 1
        outside = targets.minimum < -1e-6 or targets.maximum > 1 + 1e-6
        span = f"{targets.minimum:.3g} to {targets.maximum:.3g}"
        if loss.family == "binary_cross_entropy" and outside and not (signed and targets.signed):
            return f"{loss.name} takes targets from 0 to 1, but they run from {span}."
        if loss.own and outside and computes_binary_entropy(history, context):
            return (
                f"The loss is, by its numbers, a binary cross-entropy, which takes 0 to 1, but targets run from {span}."
            )
        if loss.family == "cross_entropy" and units == 1:
            return f"{loss.name} compares outputs of several classes, but the model has a single output."
        if loss.family == "binary_cross_entropy" and units == 1 and targets.classes > 2 and targets.width == 1:
            return f"{loss.name} with a single output can't tell {targets.classes} classes apart."
        if loss.family in ("cross_entropy", "binary_cross_entropy") and loss.expects in ("logits", "probabilities"):
            losses = history.losses[1][np.isfinite(history.losses[1])]
            negative = losses < -1e-4
            if negative.sum() >= 2 and negative[-1]:
                return f"{loss.name} is never negative for targets that fit it, but it is {losses[-1]:.3g} now."
        return None

    @staticmethod
    def _constant(history: RunHistory, context: TaskContext, result: Outcome) -> str | None:
        """Return that a single output has no say in the loss, as where it is normalized over itself, or None."""
        targets, loss = history.targets, history.scalar("loss")
        if context.output_units != 1 or not targets.entropy > 0 or len(history.steps) < _SAMPLES:
            return None
        if not (np.abs(loss) <= _TINY * targets.entropy).all() or not (history.scalar("grad_norm") == 0).all():
            return None
        low, high = output_range(history)
        if not high - low > _TINY * max(abs(low), abs(high)) or result.learned(_RIGHT):
            return None  # units that give nothing, or margins that all rows keep from the start
        accuracy = history.scalar("accuracy")
        if not result.known and not np.nanmean(accuracy) <= targets.majority:
            return None
        return (
            f"The loss is {loss[-1]:.2g} and its gradient 0 whatever the single output is, as where one probability is "
            f"normalized over itself, though accuracy is {np.nanmean(accuracy):.3g}."
        )

    @staticmethod
    def _unusual(history: RunHistory, context: TaskContext) -> str | None:
        """Return why a loss is unusual for the targets, or None."""
        loss, kind = context.loss, context.kind(history.targets)
        if kind in ("multiclass", "binary") and loss.family in ("squared_error", "absolute_error", "huber"):
            return f"{loss.name} is no loss for classes"
        if kind == "multiclass" and loss.family == "binary_cross_entropy" and (context.output_units or 0) > 2:
            return f"{loss.name} treats {context.output_units} classes that exclude each other as independent"
        return None
