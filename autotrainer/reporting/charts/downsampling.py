"""Curves of any length as few points, without losing what stands out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from autotrainer.reporting.outcome import Points

__all__ = ["MAX_POINTS", "points"]

MAX_POINTS = 400
"""Points of one curve, at most: more than a screen has pixels to tell apart."""

_DIGITS = 6


def points(positions: ArrayLike, values: ArrayLike) -> Points:
    """Return (position, value) pairs in order, at most `MAX_POINTS`.

    A longer curve keeps its first and last point, and of each of equal stretches between them the lowest and the
    highest value, so that no spike is lost. A value that is not finite is its stretch's lowest or highest.

    Args:
        positions: Steps or epochs, shape (n,).
        values: Values, shape (n,).
    """
    x, y = np.asarray(positions, np.float64), np.asarray(values, np.float64)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} positions and {len(y)} values")
    if len(x) > MAX_POINTS:
        kept = _extremes(np.where(np.isnan(y), np.inf, y))
        x, y = x[kept], y[kept]
    return tuple((float(a), float(f"{b:.{_DIGITS}g}")) for a, b in zip(x, y, strict=True))


def _extremes(y: np.ndarray) -> np.ndarray:
    """Return the indices that are kept, sorted."""
    edges = np.linspace(1, len(y) - 1, MAX_POINTS // 2).round().astype(int)
    kept = [0, len(y) - 1]
    for begin, end in pairwise(edges):
        stretch = y[begin:end]
        kept += [begin + int(stretch.argmin()), begin + int(stretch.argmax())]
    return np.unique(kept)
