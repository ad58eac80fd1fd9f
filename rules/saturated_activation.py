"""AT202: units in the flat regions of a bounded activation."""

from __future__ import annotations

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import last_median

__all__ = ["SaturatedActivation"]

_NEARLY_ALL = 0.9
"""Share of saturated outputs that is a warning before the outcome is known."""

_LATE = 0.9
"""Share of the schedule from which that is an error if the model is not halfway to a perfect score."""


class SaturatedActivation(Rule):
    """A sigmoid, tanh or other bounded activation outputs almost only its two extreme values.

    What it does
        For each hidden layer with a bounded activation, measures the share of its outputs at which the slope is below a
        thousandth of the largest one.

    Why it hurts
        Almost no gradient passes back through a saturated unit: the layers before it stop learning, and the unit itself
        is left with two values.

    Evidence used
        Median over the last samples of each layer's share of saturated outputs; the outcome.

    Thresholds
        ``saturated``: share of a layer's outputs; ``schedule``: share of the planned training from which a poor outcome
        makes it an error.

    When it is wrong
        Gates and binary codes saturate on purpose, and adaptive optimizers learn even with nine of ten units saturated.
        It is therefore an error only if the model also stays at the level of the trivial predictor, or ends far from a
        good score with nearly all outputs saturated; a model that has learned is not reported. Outputs of recurrent
        layers, which are products of gates, and the model's output are not judged.

    Repairs
        New initial weights of the right size, normalization before the activation, another activation, or a lower
        learning rate; scaled inputs, if these are the root cause.

    References
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010;
        LeCun, Bottou, Orr and Müller, Efficient BackProp, 1998.
    """

    problem = "saturated_activation"
    code = "AT202"
    aliases = ("saturation", "saturated", "saturated_units", "saturated_sigmoid", "saturated_tanh")
    phrases = (
        "sigmoid saturates",
        "tanh saturates",
        "sigmoid outputs only 0 and 1",
        "activations are saturated",
        "outputs are always 1 or -1",
    )
    needs = OUTCOME_NEEDS | frozenset({"saturated"})
    causes = (
        "missing_zero_grad",
        "nonfinite_data",
        "abnormal_data",
        "unscaled_targets",
        "poor_initialization",
        "unshuffled_data",
        "learning_rate_too_high",
        "exploding_gradient",
    )
    repairs = (
        "reinitialize",
        "insert_normalization",
        "swap_activation",
        "scale_learning_rate",
        "warm_up_learning_rate",
        "add_residual",
    )
    static = True
    THRESHOLDS = thresholds(
        saturated=Threshold(0.5, "share of saturated outputs of a layer", "Glorot 2010", maximum=1),
        schedule=Threshold(
            0.12,
            "share of the schedule before an error",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        shares = last_median(history.layer("saturated"))
        bounded = [row for row, layer in enumerate(history.layers) if layer.hidden and np.isfinite(shares[row])]
        affected = [row for row in bounded if shares[row] >= self.threshold("saturated") and shares[row] > 0]
        if not affected:
            return None
        worst = max(affected, key=lambda row: float(shares[row]))
        share, result = float(shares[worst]), outcome(history, context)
        poor = result.stuck(0.2) and not result.moving(0.1)
        over = share >= _NEARLY_ALL and result.known and result.mature(_LATE) and not result.learned(0.5)
        if over or (poor and result.mature(self.threshold("schedule"))):
            severity, confidence = result.worst, 0.85
        elif share >= _NEARLY_ALL and not result.learned(0.5):
            severity, confidence = Severity.WARNING, 0.5
        else:
            return None
        name = history.layers[worst].name
        message = f"{share:.0%} of the outputs of layer {name} ({history.layers[worst].activation}) are saturated"
        if severity is Severity.ERROR and result.words:
            message += f", and {result.words}"
        evidence = {
            "saturated": share,
            "affected_layers": float(len(affected)),
            "bounded_layers": float(len(bounded)),
        }
        return self.finding(severity, confidence, message + ".", evidence, layers=names(history, affected))
