"""How long a training should last: the extrapolation of its learning curve, with its uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats
from autotrainer.rules._shared.pace import loss_series

__all__ = ["Extrapolation", "extrapolate", "length_evidence"]

_FEWEST = 8
"""Fewest points of a curve: three are fitted, and the rest tells how well."""
_POINTS = 40
"""Points to which a longer curve is reduced, by the means of equal parts of the training."""
_BEGIN = 0.2
"""Share of the curve that is left out at its start, which is unlike the rest (Domhan et al., IJCAI 2015)."""
_NEAR = 0.1
"""Share of the fall still to come that may be left at the proposed end."""
_FEWEST_PARTS = 5
"""Fewest of these that are fitted."""
_NORMAL = 1.645
"""Half of the 90 % interval, in standard errors. Its square is the rise of the sum of squares, in units of the residual
variance, up to which a curve is within the interval of one parameter (profile likelihood)."""
_LONGEST = 100.0
"""Longest length, relative to the present one."""
_SHAPES = 150
"""Shapes of each law that are tried."""
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
    held_out = history.epochs("val_loss")
    curve = extrapolate(*(held_out if np.isfinite(held_out[1]).sum() >= _FEWEST else loss_series(history)))
    if curve is None:
        return {}
    return {
        "needed_length": curve.length,
        "shortest_length": curve.shortest,
        "longest_length": curve.longest,
        "expected_loss": curve.limit,
    }


def extrapolate(places: NDArray[np.int64], losses: Floats) -> Extrapolation | None:
    """Fit exponential and power laws with a limit to losses.

    Args:
        places: 0-based steps or epochs of the losses, in order, at any distances.
        losses: The curve from the start of the training to its end.

    Returns:
        What the best fit predicts; the interval is over all fits that are nearly as good, and no narrower than two
        steps between the shapes that are tried. None if there are too few losses, or they do not fall towards a limit.
    """
    finite = np.isfinite(losses)
    values, length = losses[finite], (int(places[-1]) + 1 if len(places) else 0)
    if len(values) < _FEWEST:
        return None
    times, points, counts = _parts((places[finite] + 0.5) / length, values)
    late = times > _BEGIN
    freedom = int(late.sum()) - 3
    scale = float(np.ptp(points[late])) if late.any() else 0.0
    if freedom + 3 < _FEWEST_PARTS or scale <= 0:
        return None
    shapes, remaining, lengths = _shapes(times[late])
    floor = 0.0 if values.min() >= 0 else -math.inf
    limits, heights, errors = _fit(shapes, points[late] / scale, counts[late] / counts[late].mean(), floor)
    usable = heights > 0
    if not usable.any():
        return None
    errors = np.where(usable, errors, np.inf)
    best = int(np.argmin(errors))
    near = errors <= errors[best] * (1 + _student(freedom) ** 2 / freedom) + 1e-12
    present = limits[best] + heights[best] * remaining[best]
    gain = heights[best] * remaining[best] / max(abs(present), 1e-12)
    ends = (float(lengths[best, 1]), float(lengths[near, 0].min()), float(lengths[near, 2].max()))
    return Extrapolation(*ends, limit=float(limits[best]) * scale, gain=float(gain))


def _parts(times: Floats, values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the mean times and values of equal parts of the training, and how many values each has; none is empty.

    Args:
        times: Times of the values, in (0, 1).
        values: The values.
    """
    parts = min(_POINTS, len(values))
    edges = np.unique(np.searchsorted(times, np.arange(parts) / parts))
    edges = edges[edges < len(values)]
    counts = np.diff([*edges, len(values)]).astype(np.float64)
    return np.add.reduceat(times, edges) / counts, np.add.reduceat(values, edges) / counts, counts


def _student(freedom: int) -> float:
    """Return half of the 90 % interval, in standard errors, for an estimated variance (Student's t, Fisher 1925)."""
    z = _NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _shapes(times: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the shapes of curves, what is left of each at the present end, and the lengths to `_NEAR` of that.

    Args:
        times: Times of the points, in (0, 1).

    Returns:
        Shapes (shapes, points), what is left (shapes,), and the lengths of the shape before, each, and the one behind
        (shapes, 3), with longer and longer ones.
    """
    decay = np.geomspace(0.05, (_LONGEST - 1) / math.log(1 / _NEAR), _SHAPES)[:, None]  # time constants
    power = np.geomspace(5.0, 0.1, _SHAPES)[:, None]
    shapes = np.concatenate([np.exp(-times / decay), (times / times[0]) ** -power])
    left = np.concatenate([np.exp(-1 / decay), (1 / times[0]) ** -power])[:, 0]
    lengths = np.concatenate([_neighbours(1 + decay * math.log(1 / _NEAR)), _neighbours(_NEAR ** (-1 / power))])
    return shapes, left, np.minimum(lengths, _LONGEST)


def _neighbours(lengths: Floats) -> Floats:
    padded = np.concatenate([[[1.0]], lengths, [[_LONGEST]]])[:, 0]
    return np.stack([padded[:-2], padded[1:-1], padded[2:]], axis=1)


def _fit(shapes: Floats, points: Floats, counts: Floats, floor: float) -> tuple[Floats, Floats, Floats]:
    """Fit limit and height of each shape to the points, robustly, with limits above a floor.

    Args:
        shapes: The shapes, (shapes, points).
        points: Values, of which each is a mean.
        counts: Of how many, relative to the mean: the inverse of its variance.
        floor: Smallest limit.

    Returns:
        Limits, heights, and Huber's sum of squared errors.
    """
    weights = np.broadcast_to(counts, shapes.shape)
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
        sizes = np.abs(residuals) * np.sqrt(counts)
        unit = _HUBER * np.maximum(1.4826 * np.median(sizes, axis=1, keepdims=True), 1e-9)
        weights = counts * np.minimum(1.0, unit / np.maximum(sizes, 1e-300))
    best_unit = float(unit[np.argmin((np.minimum(sizes, unit) * sizes).sum(1)), 0])
    inside = np.minimum(sizes, best_unit)
    return limits, heights, (inside * (2 * sizes - inside)).sum(1)
