"""How long a training should last: the extrapolation of its learning curve, with its uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats
from autotrainer.rules._shared.pace import loss_series

__all__ = ["Extrapolation", "extrapolate", "length_evidence"]

_FEWEST = 8
"""Fewest points of a curve: three are fitted, and the rest tells how well."""
_POINTS = 40
"""Points to which a longer curve is reduced, by the means of its parts."""
_BEGIN = 0.2
"""Share of the curve that is left out at its start, which is unlike the rest (Domhan et al., IJCAI 2015)."""
_NEAR = 0.1
"""Share of the fall still to come that may be left at the proposed end."""
_CONFIDENCE = 2.71
"""Rise of the sum of squares, in units of the residual variance, up to which a curve is within the 90 % interval of one
parameter (chi-squared, profile likelihood)."""
_LONGEST = 100.0
"""Longest length, relative to the present one."""
_ITERATIONS, _HUBER = 4, 1.345
"""Of the robust fit: reweightings, and residuals in standard deviations that count in full (Huber, 1964)."""


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """Where a learning curve leads to. Lengths are relative to the present one.

    Attributes:
        length: Length after which a tenth of the fall still to come is left.
        shortest: Lower end of its 90 % interval.
        longest: Upper end.
        limit: The loss that the curve approaches.
        gain: Fall still to come ÷ present loss.
    """

    length: float
    shortest: float
    longest: float
    limit: float
    gain: float


def length_evidence(history: RunHistory) -> dict[str, float]:
    """Return the evidence for another length of a training that has ended; empty if its curve tells nothing."""
    held_out = history.epochs("val_loss")[1]
    curve = extrapolate(held_out if np.isfinite(held_out).sum() >= _FEWEST else loss_series(history))
    if curve is None:
        return {}
    return {
        "needed_length": curve.length,
        "shortest_length": curve.shortest,
        "longest_length": curve.longest,
        "expected_loss": curve.limit,
    }


def extrapolate(losses: Floats) -> Extrapolation | None:
    """Fit exponential and power laws with a limit to losses at equal distances.

    Args:
        losses: The curve from the start of the training to its end.

    Returns:
        What the best fit predicts; the interval is over all fits that are nearly as good. None if there are too few
        losses, or they do not fall towards a limit.
    """
    values = losses[np.isfinite(losses)]
    if len(values) < _FEWEST:
        return None
    edges = np.linspace(0, len(values), min(_POINTS, len(values)) + 1).astype(int)
    points = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
    times = (edges[:-1] + edges[1:]) / (2 * len(values))
    late = times > _BEGIN
    scale = float(np.ptp(points[late]))
    if scale <= 0:
        return None
    shapes, remaining, lengths = _shapes(times[late])
    limits, heights, errors = _fit(shapes, points[late] / scale, floor=0.0 if values.min() >= 0 else -math.inf)
    usable = heights > 0
    if not usable.any():
        return None
    errors = np.where(usable, errors, np.inf)
    best = int(np.argmin(errors))
    freedom = int(late.sum()) - 3
    near = np.flatnonzero(errors <= errors[best] * (1 + _CONFIDENCE / freedom) + 1e-12)
    present = limits[best] + heights[best] * remaining[best]
    gain = heights[best] * remaining[best] / max(abs(present), 1e-12)
    ends = (float(lengths[best]), float(lengths[near].min()), float(lengths[near].max()))
    return Extrapolation(*ends, limit=float(limits[best]) * scale, gain=float(gain))


def _shapes(times: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the shapes of curves, what is left of each at the present end, and the length to `_NEAR` of that.

    Args:
        times: Times of the points, in (0, 1).
    """
    decay = np.geomspace(0.05, 20.0, 40)[:, None]  # time constants
    power = np.geomspace(0.1, 5.0, 40)[:, None]
    shapes = np.concatenate([np.exp(-times / decay), (times / times[0]) ** -power])
    left = np.concatenate([np.exp(-1 / decay), (1 / times[0]) ** -power])[:, 0]
    lengths = np.concatenate([1 + decay * math.log(1 / _NEAR), _NEAR ** (-1 / power)])[:, 0]
    return shapes, left, np.minimum(lengths, _LONGEST)


def _fit(shapes: Floats, points: Floats, floor: float) -> tuple[Floats, Floats, Floats]:
    """Fit limit and height of each shape to the points, robustly, with limits above a floor.

    Returns:
        Limits, heights, and Huber's sum of squared errors.
    """
    weights = np.ones_like(shapes)
    for _ in range(_ITERATIONS):
        total = weights.sum(1)
        mean_shape, mean_point = (weights * shapes).sum(1) / total, (weights @ points[:, None])[:, 0] / total
        spread = (weights * (shapes - mean_shape[:, None]) ** 2).sum(1)
        heights = (weights * (shapes - mean_shape[:, None]) * points).sum(1) / np.maximum(spread, 1e-300)
        limits = mean_point - heights * mean_shape
        bound = limits < floor
        alone = (weights * shapes * points).sum(1) / np.maximum((weights * shapes**2).sum(1), 1e-300)
        limits, heights = (
            np.where(bound, floor if math.isfinite(floor) else limits, limits),
            np.where(bound, alone, heights),
        )
        residuals = points - limits[:, None] - heights[:, None] * shapes
        sizes = np.abs(residuals)
        unit = _HUBER * np.maximum(1.4826 * np.median(sizes, axis=1, keepdims=True), 1e-9)
        weights = np.minimum(1.0, unit / np.maximum(sizes, 1e-300))
    best_unit = float(unit[np.argmin((np.minimum(sizes, unit) * sizes).sum(1)), 0])
    inside = np.minimum(sizes, best_unit)
    return limits, heights, (inside * (2 * sizes - inside)).sum(1)
