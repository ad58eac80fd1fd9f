"""Ranges of output activations, and of the targets that losses take."""

from __future__ import annotations

import math

from autotrainer.records.task import TargetSummary, TaskContext

__all__ = ["OUTPUT_RANGES", "domain_violation"]

OUTPUT_RANGES = {
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "softplus": (0.0, math.inf),
    "gelu": (-0.171, math.inf),
    "silu": (-0.279, math.inf),
    "hard_silu": (-0.375, math.inf),
    "mish": (-0.309, math.inf),
    "selu": (-1.7581, math.inf),
    "exponential": (0.0, math.inf),
    "log_softmax": (-math.inf, 0.0),
    "log_sigmoid": (-math.inf, 0.0),
}
"""Smallest and largest value of each activation with a limited range."""
_ROUNDING = 1e-6
"""By how much targets may exceed a range through rounding."""
_NOT_NEGATIVE = {"poisson": "counts", "kl_divergence": "probabilities"}
"""What losses of a family take, whose value has no minimum, or is undefined, for negative targets."""


def domain_violation(context: TaskContext, targets: TargetSummary) -> str:
    """Return why a loss has no meaning on these targets or for this number of outputs; or an empty string.

    Args:
        context: The training.
        targets: Its targets.
    """
    loss, units = context.loss, context.output_units
    if not targets.count:
        return ""
    signed = loss.name == "signed_logistic"  # expects -1 and 1
    outside = targets.minimum < -_ROUNDING or targets.maximum > 1 + _ROUNDING
    limits = f"{targets.minimum:.3g} to {targets.maximum:.3g}"
    if units == 1 and targets.classes > 2 and context.kind(targets) == "multiclass" and not loss.own:
        name = "a cross-entropy over classes" if loss.family == "cross_entropy" else loss.name
        return f"A single output can't distinguish the {targets.classes} classes of the targets under {name}."
    if loss.family == "binary_cross_entropy" and outside and not (signed and targets.signed):
        return f"{loss.name} expects targets between 0 and 1, but they range from {limits}."
    if loss.family in _NOT_NEGATIVE and targets.minimum < -_ROUNDING:
        return f"{loss.name} expects {_NOT_NEGATIVE[loss.family]} of at least 0, but targets range from {limits}."
    if loss.family == "cross_entropy" and units == 1:
        return f"{loss.name} compares outputs of several classes, but the model has a single output."
    if loss.family == "binary_cross_entropy" and units == 1 and targets.classes > 2 and targets.width == 1:
        return f"{loss.name} with a single output can't distinguish {targets.classes} classes."
    return ""
