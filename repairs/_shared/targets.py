"""Whether scale, shape and encoding of targets suit a loss."""

from __future__ import annotations

import math
from collections.abc import Mapping

from autotrainer.edits import Edit, EncodeTargets, NumberClasses, ScaleTargets
from autotrainer.records.output_ranges import OUTPUT_RANGES
from autotrainer.records.task import TargetSummary, TaskContext

__all__ = [
    "are_out_of_reach",
    "differ_in_shape_only",
    "far_from_unit_scale",
    "fitting_encoding",
    "outside_range",
    "reach",
]

_FAR = 30.0
"""Standard deviation, and mean ÷ standard deviation, from which targets are far from unit scale: those of
`unscaled_targets`, below which healthy trainings are common."""

_SHAPE_EVIDENCE = ("crossed_", "output_rank")
"""How the names of evidence about broadcast shapes begin."""


def outside_range(activation: str | None, minimum: float, maximum: float) -> bool:
    """Return whether an output activation is known not to reach all values from a minimum to a maximum."""
    low, high = OUTPUT_RANGES.get(activation or "", (-math.inf, math.inf))
    return minimum < low or maximum > high


def are_out_of_reach(context: TaskContext, targets: TargetSummary) -> bool:
    """Return whether targets are numbers, no classes, that output activation or loss can't reach."""
    binary = context.loss.family == "binary_cross_entropy"
    if binary and context.kind(targets) in ("binary", "multilabel"):
        return not targets.values and (targets.minimum < 0 or targets.maximum > 1)
    limited = outside_range(context.output_activation, targets.minimum, targets.maximum)
    return context.kind(targets) == "regression" and (
        limited or (binary and not 0 <= targets.minimum <= targets.maximum <= 1)
    )


def far_from_unit_scale(targets: TargetSummary) -> bool:
    """Return whether targets are so large, or so far from zero, that the initial loss is far too large."""
    if not targets.variance > 0:
        return False
    spread = math.sqrt(targets.variance)
    return spread >= _FAR or abs(targets.mean) >= max(_FAR * spread, 10.0)


def reach(targets: TargetSummary) -> float:
    """Return the distance of the farthest target from the mean, in standard deviations; 0 without any spread."""
    if not targets.variance > 0:
        return 0.0
    return max(targets.maximum - targets.mean, targets.mean - targets.minimum) / math.sqrt(targets.variance)


def differ_in_shape_only(context: TaskContext, targets: TargetSummary, evidence: Mapping[str, float]) -> bool:
    """Return whether outputs and targets hold one value per row each, one of them in a column."""
    if context.loss.family == "cross_entropy" or targets.width != 1:
        return False
    if any(name.startswith(_SHAPE_EVIDENCE) for name in evidence):
        # Keras aligns targets before it calls the loss: one that broadcasts them changes the shapes itself.
        return context.framework != "keras3" or context.output_rank != targets.rank
    return context.output_rank is not None and {context.output_rank, targets.rank} == {1, 2}


def fitting_encoding(context: TaskContext, targets: TargetSummary, *, out_of_range: bool = False) -> Edit | None:
    """Return the edit that gives targets the encoding that the loss expects; None if they have it, or no edit does.

    Args:
        context: The training.
        targets: Its targets.
        out_of_range: Whether targets are known to be out of the range of the loss, even if it is a custom one.
    """
    loss = context.loss
    if not targets.count or not (targets.integral or targets.one_hot):
        return None
    if loss.family == "cross_entropy":
        return _classes(context, targets)
    if loss.family == "binary_cross_entropy" and targets.signed and loss.expects == "logits":
        return EncodeTargets("zero_one")
    chances = loss.family == "binary_cross_entropy" and loss.expects == "probabilities"
    chances |= out_of_range and loss.family == "custom"
    two = len(targets.values) == 2 and targets.values != (0.0, 1.0)
    if chances and two and context.output_units == 1 and context.output_activation == "sigmoid":
        low, high = targets.values
        if targets.signed:  # predictions are split at 0: the output is low + (high - low) * probability
            return ScaleTargets((low,), (high - low,))
        return EncodeTargets("zero_one", (low, high))
    margin = loss.family == "hinge" and loss.targets == "values" and context.framework == "pytorch"
    return EncodeTargets("signed") if margin and targets.values == (0.0, 1.0) else None  # Keras converts these itself


def _classes(context: TaskContext, targets: TargetSummary) -> Edit | None:
    loss, units = context.loss, context.output_units
    if units is None or units < 2 or targets.minimum < 0:
        return None
    if targets.one_hot:
        taken = loss.targets == "one_hot" or (loss.targets == "either" and not targets.integer_type)
        return EncodeTargets("index") if not taken and targets.width == units else None
    if targets.maximum >= units:
        fill = 0.0 if loss.expects == "probabilities" else -1e4
        several = 2 <= targets.classes <= units and loss.targets != "one_hot"
        return NumberClasses(fill=fill) if several else None
    if loss.targets == "one_hot":
        return EncodeTargets("one_hot") if targets.width == 1 else None
    refused = bool(context.loss_refusal) or not targets.integer_type or targets.rank == context.output_rank == 2
    return EncodeTargets("index") if refused and targets.width == 1 else None
