"""AT407: a first loss far above that of a model that knows nothing."""

from __future__ import annotations

import math

from autotrainer.records.task import LossInfo, TargetSummary
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.words import about

__all__ = ["AbnormalInitialLoss"]

_SMALLEST = 1e-7
"""Probability at which Keras cuts off before the logarithm."""

_LEARNED = 0.5
"""Skill from which the start no longer matters."""

_USUAL = 1.0
"""Nats that the loss of an output layer drawn after He et al. may lie above that of answering all classes alike: on
features of unit variance its logits have variance 2, and by Jensen's inequality the excess is at most half of that."""


class AbnormalInitialLoss(Rule):
    """The very first loss is far above that of answering all classes alike, or with the mean.

    What it does
        Compares the loss of the first step with ln C for C classes, ln 2 for labels, or the mean square of the
        targets, and looks whether the outputs are spread so widely that they explain it.

    Why it hurts
        The model starts sure of wrong answers. The first part of the training only undoes the initial weights of the
        last layers, with large gradients that can push units to where they stay.

    Evidence used
        Loss, batch size, smallest and largest output and their spread at the first step, before any weight has
        changed. A loss that these outputs can't have as a plain mean (weighted, summed or with a penalty) is not
        judged; nor is one that the noise of a batch of this size explains.

    Thresholds
        ``ratio``: first loss ÷ that of answering all classes alike; ``scale``: spread of the outputs ÷ that of the
        targets (at least 1), in regression.

    When it is wrong
        A pretrained model, which is sure of its answers, on other classes. Many models recover within an epoch:
        it is a warning, and a model that has learned is not reported. A first loss that is too low tells nothing
        (pretrained), and losses of one's own have no known start: contrastive losses (ln of the batch), likelihoods.

    Repairs
        Smaller weights of the output layer, new initial weights, normalization before the last layer.

    References
        Karpathy, A Recipe for Training Neural Networks, 2019; Mishkin and Matas (LSUV), ICLR 2016.
    """

    problem = "abnormal_initial_loss"
    code = "AT407"
    aliases = ("initial_loss", "first_loss", "bad_first_loss")
    needs = OUTCOME_NEEDS | frozenset({"output_min", "output_max", "output_spread"})
    causes = (
        "nonfinite_data",
        "target_mismatch",
        "improper_output_activation",
        "abnormal_data",
        "unscaled_targets",
        "poor_initialization",
    )
    repairs = ("scale_output_layer", "reinitialize", "insert_normalization")
    static = True
    THRESHOLDS = thresholds(
        ratio=Threshold(1.5, "first loss ÷ that of answering all classes alike", "catalogue of problems", 1),
        scale=Threshold(10, "spread of the first outputs ÷ that of targets", "LSUV keeps it at 1", 1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        if not len(history.steps) or history.steps[0] != 0 or context.loss.reduction != "mean":
            return None
        first, rows, low, high, spread = (
            float(history.scalar(name)[0])
            for name in ("loss", "batch_size", "output_min", "output_max", "output_spread")
        )
        if not all(map(math.isfinite, (first, rows, low, high, spread))):
            return None
        kind, targets = context.kind(history.targets), history.targets
        if kind == "regression":
            reason = self._of_values(first, spread, targets, context.loss)
        else:
            reason = self._of_classes(first, rows, (low, high, spread), _alike(context, kind), context.loss)
        if reason is None or outcome(history, context).learned(_LEARNED):
            return None
        expected, words = reason
        message = (
            f"The first loss is {about(first, 3)}, where {words} has {about(expected, 3)}; the first outputs are too "
            "large."
        )
        evidence = {"first_loss": first, "expected_loss": expected, "output_spread": spread, "output_max": high}
        return self.finding(Severity.WARNING, 0.6, message, evidence | {"output_min": low})

    def _of_classes(
        self, first: float, rows: float, outputs: tuple[float, float, float], alike: float, loss: LossInfo
    ) -> tuple[float, str] | None:
        """Return the loss of answering all classes alike, and that in words, where the first one is far above."""
        low, high, spread = outputs
        if loss.expects == "logits":
            largest = max(high - low, abs(low), abs(high)) + alike
            noise = min(first, math.sqrt(2) * spread)
        elif loss.expects == "probabilities":
            largest = -math.log(max(min(low, 1 - high if alike == math.log(2) else low), _SMALLEST))
            noise = first
        elif loss.expects == "log_probabilities":
            largest, noise = -low, first
        else:
            return None
        if not (alike > 0 and first > self.threshold("ratio") * alike and first <= largest * 1.01):
            return None
        if first - alike <= _USUAL + 3 * noise / math.sqrt(max(rows, 1.0)):
            return None
        return alike, "answering all classes alike"

    def _of_values(
        self, first: float, spread: float, targets: TargetSummary, loss: LossInfo
    ) -> tuple[float, str] | None:
        """Return the loss of answering zero, and that in words, where outputs are far larger than targets."""
        square = targets.variance + targets.mean**2
        scale = self.threshold("scale")
        if loss.family != "squared_error" or not square > 0 or not first > scale**2 * square:
            return None
        return (square, "answering 0") if spread >= scale * max(1.0, math.sqrt(square)) else None


def _alike(context: TaskContext, kind: str) -> float:
    """Return the cross-entropy of answering all classes alike; 0 for other losses."""
    if context.loss.family == "cross_entropy" and kind == "multiclass" and (context.output_units or 0) > 1:
        return math.log(context.output_units or 0)
    if context.loss.family == "binary_cross_entropy" and kind in ("binary", "multilabel", "multiclass"):
        return math.log(2)
    return 0.0
