"""Statistics of series: windows of recent samples, robust slopes, growth, confidence intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.signals import Floats

__all__ = [
    "Slope",
    "blocks",
    "finite",
    "geometric_mean",
    "growth",
    "last_median",
    "loss_growth",
    "recent",
    "solved",
    "theil_sen",
    "wilson",
]

_MAX_POINTS = 64
_BLOCKS = 24
_FEW = 9
"""Losses most of which are zero where single rows still violate a margin, or a policy explores."""


@dataclass(frozen=True, slots=True)
class Slope:
    """A robust linear trend: its slope per unit of x, and the 95 % confidence interval (low, high) of the slope."""

    slope: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def falling(self) -> bool:
        """Whether the series falls significantly."""
        return self.high < 0

    @property
    def rising(self) -> bool:
        """Whether the series rises significantly."""
        return self.low > 0


def theil_sen(x: NDArray[np.int64] | Floats, y: Floats) -> Slope:
    """Return the median of the slopes between all pairs of points (Theil 1950, Sen 1968).

    Args:
        x: Positions, shape (points,).
        y: Values, shape (points,); points that are not finite are left out.

    Returns:
        The slope and its interval; NaN with fewer than four points or no spread in x.
    """
    kept = np.isfinite(y)
    at: Floats = np.asarray(x, np.float64)[kept]
    y = y[kept]
    if len(at) > _MAX_POINTS:
        chosen = np.linspace(0, len(at) - 1, _MAX_POINTS).astype(int)
        at, y = at[chosen], y[chosen]
    n = len(at)
    if n < 4:
        return Slope()
    first, second = np.triu_indices(n, 1)
    distance = at[second] - at[first]
    apart = distance != 0
    if not apart.any():
        return Slope()
    with np.errstate(all="ignore"):
        slopes = np.sort((y[second] - y[first])[apart] / distance[apart])
    # Sen (1968): ranks of the interval from the normal approximation of Kendall's score.
    half = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = int(max(0, math.floor((len(slopes) - half) / 2)))
    high = int(min(len(slopes) - 1, math.ceil((len(slopes) + half) / 2)))
    return Slope(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))


def blocks(x: NDArray[np.int64] | Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return the means of up to `_BLOCKS` consecutive blocks of equal size: (positions, values).

    Batch noise shrinks with the root of a block's size. Values that are not finite are left out.
    """
    kept = np.isfinite(y)
    at: Floats = np.asarray(x, np.float64)[kept]
    y = y[kept]
    if len(at) <= _BLOCKS:
        return at, y
    edges = np.linspace(0, len(at), _BLOCKS + 1).astype(int)
    sizes = np.diff(edges)
    return np.add.reduceat(at, edges[:-1]) / sizes, np.add.reduceat(y, edges[:-1]) / sizes


def recent(steps: NDArray[np.int64], share: float = 0.5, least: int = 5) -> slice:
    """Return the samples of the last `share` of all steps, and at least the last `least` samples."""
    if not len(steps):
        return slice(0, 0)
    start = int(np.searchsorted(steps, steps[-1] * (1 - share)))
    return slice(max(0, min(start, len(steps) - least)), len(steps))


def geometric_mean(values: Floats) -> Floats:
    """Return the geometric mean over the first axis, NaN and infinity left out; zero where more than half are zero.

    A single exact zero does not make a norm zero, and a single spike does not make it large.
    """
    with np.errstate(all="ignore"):
        valid = np.isfinite(values)
        positive = valid & (values > 0)
        logs = np.where(positive, np.log(np.where(positive, values, 1.0)), 0.0)
        mean = np.exp(logs.sum(axis=0) / positive.sum(axis=0))
    zero = (valid & (values == 0)).sum(axis=0) > valid.sum(axis=0) / 2
    result = np.where(zero, 0.0, mean)
    return np.asarray(np.where(valid.any(axis=0), result, np.nan))


def finite(values: Floats) -> Floats:
    """Return the values with NaN in place of infinity, which is reported by `nonfinite`."""
    return np.where(np.isfinite(values), values, np.nan)


def solved(losses: Floats, last: int) -> bool:
    """Return whether the last losses, or most of the last few, are exactly zero, and some before were above.

    Every row then satisfies a margin, or all returns of a policy are equal.
    """
    zero = losses == 0
    ended = zero[-last:].all() or zero[-_FEW:].mean() > 0.5
    return bool(len(losses) > last and (losses[:-last] > 0).any() and ended)


def last_median(values: Floats, count: int = 5) -> Floats:
    """Return the median of the last `count` samples over the first axis; NaN where nothing was measured."""
    rows = np.sort(values[-count:], axis=0)  # NaN sorts last
    if not len(rows):
        return np.full(values.shape[1:], np.nan)
    middle = np.maximum(len(rows) - 1 - np.isnan(rows).sum(axis=0), 0) // 2
    return np.asarray(np.take_along_axis(rows, middle[None], axis=0)[0])


def growth(values: Floats) -> float:
    """Return how many times larger the last values are than the first ones, if that exceeds their noise.

    The medians of the last and the first 3 values are compared, then those of 9; the larger ratio counts. It must
    exceed three standard errors, estimated from the scatter of the differences between neighbours on a logarithmic
    scale around their median: steady growth has no noise, single samples of a batch of one have much.

    Args:
        values: Positive values in order, shape (values,); NaN is left out.

    Returns:
        The factor; 1 if noise explains it, infinity if the last value is infinite, NaN with fewer than two finite
        positive values.
    """
    values = values[~np.isnan(values)]
    if values.size and math.isinf(values[-1]):
        return math.inf
    logs = np.log(values[np.isfinite(values) & (values > 0)])
    if len(logs) < 2:
        return math.nan
    moves = np.diff(logs)
    noise = 1.48 * float(np.median(np.abs(moves - np.median(moves)))) / math.sqrt(2)
    largest = 0.0
    for count in (min(3, len(logs) // 2), min(9, len(logs) // 2)):
        gain = float(np.median(logs[-count:]) - np.median(logs[:count]))
        if gain > 3 * noise * math.sqrt(2 / count):
            largest = max(largest, gain)
    return math.exp(min(largest, 700.0))


def loss_growth(losses: Floats, family: str) -> float:
    """Return how many times larger a loss has become, as `growth` does.

    A loss that goes below zero (a likelihood of densities, the return of a policy) has no lower bound to measure its
    size from, and its magnitude grows when it improves: NaN, unless the last value is infinite. Cross-entropy is below
    zero only if its targets are wrong, and then its magnitude grows without bound.
    """
    valid = losses[~np.isnan(losses)]
    bounded = family in ("cross_entropy", "binary_cross_entropy")
    if not bounded and valid.size and np.isfinite(valid[-1]) and (valid < 0).any():
        return math.nan
    return growth(np.abs(losses))


def wilson(share: float, count: float, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927).

    Args:
        share: Observed share in [0, 1].
        count: Number of observations.
        z: Normal quantile.

    Returns:
        (low, high); (0, 1) with less than one observation.
    """
    if not count >= 1:
        return 0.0, 1.0
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
