"""Ranges of output activations, and of the outputs and targets that were measured."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.output_ranges import OUTPUT_RANGES
from autotrainer.records.task import TaskContext

__all__ = ["output_activation", "output_range", "several_labels", "unreachable"]

_TOLERANCE = 1e-3
"""Distance from the range of an activation that half precision explains."""

_SEVERAL_LABELS = 1.2
"""Mean number of labels per row from which outputs that sum to 1 can't be their probabilities."""


def output_range(history: RunHistory) -> tuple[float, float]:
    """Return the smallest and the largest finite output measured; (NaN, NaN) unless both are known."""
    low, high = (values[np.isfinite(values)] for values in (history.scalar("output_min"), history.scalar("output_max")))
    return (float(low.min()), float(high.max())) if low.size and high.size else (math.nan, math.nan)


def output_activation(history: RunHistory, context: TaskContext) -> str | None:
    """Return the activation of the outputs that the loss gets, None if unknown.

    It is the one declared, unless the measured outputs leave its range: then something follows it, such as the
    logarithm that a trainer takes. Without any, it is softmax if the outputs prove it.
    """
    low, high = output_range(history)
    declared = context.output_activation
    if declared is not None:
        lowest, highest = OUTPUT_RANGES.get(declared, (-math.inf, math.inf))
        outside = low < lowest - _TOLERANCE or high > highest + _TOLERANCE
        return None if outside else declared
    errors = history.scalar("output_row_sum_error")
    errors = errors[~np.isnan(errors)]
    if len(errors) >= 2 and errors.max() < 1e-4 and low >= 0 and high <= 1 + 1e-6:
        return "softmax"
    return None


def several_labels(history: RunHistory, context: TaskContext) -> float | None:
    """Return the mean number of labels of a row if several are true at once, so that no softmax fits; else None."""
    labels = history.targets.mean * history.targets.width
    several = context.kind(history.targets) == "multilabel" and labels > _SEVERAL_LABELS
    return labels if several else None


def unreachable(activation: str | None, minimum: float, maximum: float) -> float:
    """Return the share of the range of the targets that lies outside the range of an activation.

    Args:
        activation: Name of the output activation, or None.
        minimum: Smallest target.
        maximum: Largest target.

    Returns:
        Share in [0, 1]; for constant targets 0 or 1. 0 if the activation is not limited or unknown.
    """
    low, high = OUTPUT_RANGES.get(activation or "", (-math.inf, math.inf))
    if math.isnan(minimum) or math.isnan(maximum):
        return 0.0
    outside = max(0.0, min(maximum, low) - minimum) + max(0.0, maximum - max(minimum, high))
    if maximum == minimum:
        return float(minimum < low or maximum > high)
    return outside / (maximum - minimum)
