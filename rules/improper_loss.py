"""AT402: a loss that does not fit the targets."""

from __future__ import annotations

import numpy as np

from autotrainer.records.output_ranges import domain_violation
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.loss_values import LOSS_VALUE_NEEDS
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, enough_samples, outcome
from autotrainer.rules._shared.ranges import output_range, several_labels
from autotrainer.rules._shared.steps import STEP_NEEDS, steps_taken
from autotrainer.rules._shared.trends import last_median

__all__ = ["ImproperLoss"]

_MOST_LABELS = 100
"""Most outputs that are labels: among thousands of items, a softmax with several true ones is the likelihood of a
ranking (Liang et al., WWW 2018)."""

_LEARNED = 0.8
"""Skill from which several labels under a softmax are not reported, as in `improper_output_activation`."""

_SAMPLES = 5
"""Fewest samples, from the first one on, in all of which the output must have had no influence."""

_TINY = 1e-3
"""Loss ÷ entropy of the classes that only an almost perfect model reaches; and spread of outputs ÷ their size from
which they differ."""

_MOVED = 0.1
"""Change of the weights ÷ their norm below which training shows nothing about the loss, as in `slow_convergence`."""

_RIGHT = 0.3
"""Skill from which a loss of zero may be success, as in `not_learning`."""


class ImproperLoss(Rule):
    """The loss does not fit the targets or the number of outputs.

    What it does
        Derives from the targets (class indices, one-hot, {0, 1}, {−1, 1}, real values) which losses make sense.

    Why it hurts
        A cross-entropy of targets outside 0 … 1 has no minimum: it falls below zero although the model does not
        improve. So do a Poisson loss and a Kullback-Leibler divergence of negative targets. A single output can't
        distinguish more than two classes. A softmax makes labels that are true at once compete, and learns nothing from
        rows without any.

    Evidence used
        Kind, range and number of classes of the targets, number of outputs, and the sign of the loss. Custom losses are
        recognized by their values: binary cross-entropies of the sampled rows; a loss and gradients that are zero from
        the start, although the single output varies and is wrong; a graph (Keras on TensorFlow) in which the loss does
        not depend on the targets, with a model that has not learned them. For losses that are merely unusual, such as
        squared error for classes, the outcome decides.

    Thresholds
        ``schedule``: share of the planned training from which an unusual loss counts, if nothing has been learned.

    When it is wrong
        Squared error for classes and binary cross-entropy over one-hot targets are legitimate: they are never reported
        in a model that learns. Nor is a softmax over more than 100 items several of which are true, as in recommenders.
        Self-supervised training has no use for targets: give it none. Those that can't be
        compared with the outputs, such as labels for a metric on embeddings, are only a fact.

    Repairs
        The loss that fits the targets, or targets encoded for the loss.

    References
        Zhang et al., AUTOTRAINER, ICSE 2021, section III.
    """

    problem = "improper_loss"
    code = "AT402"
    aliases = ("wrong_loss", "wrong_loss_function", "loss_mismatch", "negative_loss")
    phrases = (
        "loss is negative",
        "negative loss",
        "which loss function",
        "wrong loss function",
        "binary cross entropy for multiple classes",
        "loss for classification",
        "cross entropy with one output",
    )
    needs = OUTCOME_NEEDS | LOSS_VALUE_NEEDS | STEP_NEEDS | frozenset({"target_min", "target_max", "targets_ignored"})
    causes = ("nonfinite_data", "target_mismatch")
    repairs = ("fix_loss", "encode_targets", "fix_output_activation", "resize_output_layer", "scale_targets")
    static = True
    place = "loss"
    THRESHOLDS = thresholds(
        schedule=Threshold(
            0.15,
            "share of the schedule before a verdict",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        )
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
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
        reason = (
            self._proven(history, context)
            or self._competing(history, context, result)
            or self._constant(history, context, result)
        )
        if reason is not None:
            return self.finding(Severity.ERROR, result.certainty, reason, evidence)
        if self._ignores_targets(history, result):
            compared = np.isfinite(history.scalar("squared_error")).any()  # else labels of embeddings, for a metric
            severity = Severity.ERROR if compared else Severity.INFO
            message = "The loss does not depend on the targets: it is the same whatever they are"
            message += f"; {result.words}" if result.words else ""
            message += ". Compare outputs with targets (y_true) in the loss function, or leave the targets out."
            return self.finding(severity, result.certainty, message, evidence)
        reason = self._unusual(history, context)
        if reason is None or not result.known or not result.stuck() or result.moving():
            return None
        if not result.mature(self.threshold("schedule")) or steps_taken(history).travel < _MOVED:
            return None
        return self.finding(result.worst, 0.5, f"{reason}, and {result.words} after {result.steps} steps.", evidence)

    @staticmethod
    def _proven(history: RunHistory, context: TaskContext) -> str | None:
        """Return why loss and targets can't fit together, or None."""
        loss = context.loss
        if reason := domain_violation(context, history.targets):
            return reason
        if loss.family in ("cross_entropy", "binary_cross_entropy") and loss.expects in ("logits", "probabilities"):
            losses = history.losses[1][np.isfinite(history.losses[1])]
            negative = losses < -1e-4
            if negative.sum() >= 2 and negative[-1]:
                return f"{loss.name} is never negative for valid targets, but it is now {losses[-1]:.3g}."
        return None

    @staticmethod
    def _competing(history: RunHistory, context: TaskContext, result: Outcome) -> str | None:
        """Return a message if the loss applies a softmax to the outputs of labels several of which are true at once."""
        targets, units, loss = history.targets, context.output_units or 0, context.loss
        # Keras divides probabilities by their sum. A softmax in the model is what improper_output_activation names.
        divided = loss.expects == "probabilities" and context.output_activation != "softmax"
        softmax = loss.family == "cross_entropy" and (loss.expects == "logits" or divided) and not loss.identified
        labels = several_labels(history, context) if softmax and targets.rank == 2 and units <= _MOST_LABELS else None
        if labels is None or result.learned(_LEARNED):
            return None
        return (
            f"{loss.name} makes the probabilities of {units} classes sum to 1, but a row has {labels:.2g} labels on "
            "average: use a binary cross-entropy of each label."
        )

    def _ignores_targets(self, history: RunHistory, result: Outcome) -> bool:
        """Return whether targets that differ have no influence on the loss, as its graph proves, nor were learned."""
        ignored = history.scalar("targets_ignored")
        ignored = ignored[np.isfinite(ignored)]
        targets = history.targets
        if not len(ignored) or ignored[-1] != 1 or not targets.maximum > targets.minimum:
            return False
        if not result.mature(self.threshold("schedule")) or not enough_samples(history):
            return False
        if not result.known:
            errors = last_median(history.scalar("squared_error")[:, None])[0]
            return bool(errors > (1 - _RIGHT) * targets.variance > 0)
        return not result.learned(_RIGHT)

    @staticmethod
    def _constant(history: RunHistory, context: TaskContext, result: Outcome) -> str | None:
        """Return a message if a single output has no influence on the loss, as when it is normalized by itself."""
        targets, loss = history.targets, history.data_losses
        if context.output_units != 1 or not targets.entropy > 0 or len(history.steps) < _SAMPLES:
            return None
        if not (np.abs(loss) <= _TINY * targets.entropy).all() or not (history.scalar("grad_norm") == 0).all():
            return None
        low, high = output_range(history)
        if not high - low > _TINY * max(abs(low), abs(high)) or result.learned(_RIGHT):
            return None  # dead units, or margins that all rows keep from the start
        accuracy = history.scalar("accuracy")
        if not result.known and not np.nanmean(accuracy) <= targets.majority:
            return None
        return (
            f"The loss ({loss[-1]:.2g}) and its gradient (0) do not depend on the single output, as when one "
            f"probability is normalized by itself, although accuracy is {np.nanmean(accuracy):.3g}."
        )

    @staticmethod
    def _unusual(history: RunHistory, context: TaskContext) -> str | None:
        """Return why a loss is unusual for the targets, or None."""
        loss, kind = context.loss, context.kind(history.targets)
        if kind in ("multiclass", "binary", "multilabel") and loss.family in (
            "squared_error",
            "absolute_error",
            "huber",
        ):
            return f"{loss.name} is not a loss for {'labels' if kind == 'multilabel' else 'classes'}"
        if kind == "multiclass" and loss.family == "binary_cross_entropy" and (context.output_units or 0) > 2:
            return f"{loss.name} treats {context.output_units} mutually exclusive classes as independent"
        return None
