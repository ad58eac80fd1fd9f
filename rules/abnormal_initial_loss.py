"""AT407: a first loss far above that of a model that knows nothing about the inputs."""

from __future__ import annotations

import math

from autotrainer.records.task import LossInfo, TargetSummary
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.words import about

__all__ = ["AbnormalInitialLoss"]

_SMALLEST = 1e-7
"""Probability to which Keras clips before the logarithm."""

_LEARNED = 0.5
"""Skill from which the start no longer matters."""

_USUAL = 1.0
"""Nats by which He initialization of the output layer may raise the loss above that of uniform predictions: on features
of unit variance its logits have variance 2, and by Jensen's inequality the excess is at most half of that."""


class AbnormalInitialLoss(Rule):
    """The first loss is far above that of predicting all classes as equally likely, or the mean.

    What it does
        Compares the loss of the first step with ln C for C classes, ln 2 for labels, or the mean square of the targets,
        and checks whether the spread of the outputs explains it.

    Why it hurts
        The model starts with confident wrong predictions. The first part of the training only corrects the initial
        weights of the last layers, with large gradients that can kill units for good.

    Evidence used
        Loss, batch size, smallest and largest output and their spread at the first step, before any weight has changed.
        A loss that can't be a plain mean over these outputs (weighted, summed or with a penalty) is not judged, nor is
        one that the noise of a batch of this size explains.

    Thresholds
        ``ratio``: first loss ÷ that of predicting all classes as equally likely; ``scale``: spread of the outputs ÷
        that of the targets (at least 1), in regression.

    When it is wrong
        A pretrained model that is confident of its predictions, on other classes. Many models recover within an epoch:
        it is a warning, and a model that has learned is not reported. A first loss that is too low proves nothing
        (pretrained), and custom losses have no known initial value: contrastive losses (ln of the batch size),
        likelihoods.

    Repairs
        Smaller weights of the output layer, new initial weights, or normalization before the last layer.

    References
        Karpathy, A Recipe for Training Neural Networks, 2019; Mishkin and Matas (LSUV), ICLR 2016.
    """

    problem = "abnormal_initial_loss"
    code = "AT407"
    aliases = ("initial_loss", "first_loss", "bad_first_loss")
    phrases = (
        "initial loss too high",
        "loss is very high at the start",
        "first loss is huge",
        "loss starts very high",
        "expected initial loss",
    )
    needs = OUTCOME_NEEDS | frozenset({"output_min", "output_max", "output_spread"})
    causes = (
        "nonfinite_data",
        "target_mismatch",
        "improper_output_activation",
        "abnormal_data",
        "unscaled_targets",
        "abnormal_normalization",
        "sibling_outlier",
        "checkpoint_not_loaded",
        "poor_initialization",
    )
    repairs = ("scale_output_layer", "reinitialize", "insert_normalization")
    static = True
    THRESHOLDS = thresholds(
        ratio=Threshold(1.5, "first loss ÷ that of predicting all classes as equally likely", "catalogue", 1),
        scale=Threshold(10, "spread of the first outputs ÷ that of targets", "LSUV keeps it at 1", 1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if not len(history.steps) or history.steps[0] != 0 or context.loss.reduction != "mean":
            return None
        if context.loss.modulated:
            return None
        first = float(history.data_losses[0])
        rows, low, high, spread = (
            float(history.scalar(name)[0]) for name in ("batch_size", "output_min", "output_max", "output_spread")
        )
        if not all(map(math.isfinite, (first, rows, low, high, spread))):
            return None
        kind, targets = context.kind(history.targets), history.targets
        if kind == "regression":
            reason = self._of_values(first, spread, targets, context.loss)
        else:
            reason = self._of_classes(first, rows, (low, high, spread), _uniform_loss(context, kind), context.loss)
        if reason is None or outcome(history, context).learned(_LEARNED):
            return None
        expected, words = reason
        message = (
            f"The initial outputs are too large: the first loss is {about(first, 3)}, but {words} gives "
            f"{about(expected, 3)}."
        )
        evidence = {"first_loss": first, "expected_loss": expected, "output_spread": spread, "output_max": high}
        return self.finding(Severity.WARNING, 0.6, message, evidence | {"output_min": low})

    def _of_classes(
        self, first: float, rows: float, outputs: tuple[float, float, float], uniform: float, loss: LossInfo
    ) -> tuple[float, str] | None:
        """Return the loss of uniform predictions, and their name, if the first loss is far above it; else None."""
        low, high, spread = outputs
        if loss.expects == "logits":
            largest = max(high - low, abs(low), abs(high)) + uniform
            noise = min(first, math.sqrt(2) * spread)
        elif loss.expects == "probabilities":
            largest = -math.log(max(min(low, 1 - high if uniform == math.log(2) else low), _SMALLEST))
            noise = first
        elif loss.expects == "log_probabilities":
            largest, noise = -low, first
        else:
            return None
        if not (uniform > 0 and first > self.threshold("ratio") * uniform and first <= largest * 1.01):
            return None
        if first - uniform <= _USUAL + 3 * noise / math.sqrt(max(rows, 1.0)):
            return None
        return uniform, "predicting all classes as equally likely"

    def _of_values(
        self, first: float, spread: float, targets: TargetSummary, loss: LossInfo
    ) -> tuple[float, str] | None:
        """Return the loss of predicting 0, and its name, if outputs are far larger than targets; else None."""
        square = targets.variance + targets.mean**2
        scale = self.threshold("scale")
        if loss.family != "squared_error" or not square > 0 or not first > scale**2 * square:
            return None
        return (square, "predicting 0") if spread >= scale * max(1.0, math.sqrt(square)) else None


def _uniform_loss(context: TaskContext, kind: str) -> float:
    """Return the cross-entropy of predicting all classes as equally likely; 0 for other losses."""
    if context.loss.family == "cross_entropy" and kind == "multiclass" and (context.output_units or 0) > 1:
        return math.log(context.output_units or 0)
    if context.loss.family == "binary_cross_entropy" and kind in ("binary", "multilabel", "multiclass"):
        return math.log(2)
    return 0.0
