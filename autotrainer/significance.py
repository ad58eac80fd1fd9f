"""When a gain, measured on the same rows before and after, is more than noise."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.signals import Floats

__all__ = ["row_gains", "significant"]

_Z = 1.645
"""One-sided 95 % quantile of the normal distribution."""


def row_gains(new: Floats, old: Floats, weights: Floats) -> Floats:
    """Return the gain of each row that counts, scaled so that the plain mean is the gain of the weighted mean."""
    used = weights > 0
    with np.errstate(invalid="ignore"):
        gains: Floats = (new - old)[used] * weights[used] * (used.sum() / weights[used].sum())
    return np.nan_to_num(gains, nan=0.0)


def significant(gains: Floats) -> bool:
    """Test one-sided at 95 % whether the mean gain is above zero.

    Gains that are all of one size either way are counted: the exact sign test on the rows that differ (McNemar
    1947). Others go through a t test, its quantile from the normal one (Abramowitz and Stegun 1964, 26.7.5).
    """
    gains = np.clip(gains, -1e100, 1e100)
    different = gains[gains != 0]
    if len(gains) < 2 or not len(different):
        return False
    sizes = np.abs(different)
    if np.allclose(sizes, sizes[0]):
        wins, all_of_them = int((different > 0).sum()), len(different)
        if all_of_them <= 1000:
            tail = sum(math.comb(all_of_them, k) for k in range(wins, all_of_them + 1))
            return bool(tail <= 0.05 * 2**all_of_them)
    degrees = len(gains) - 1
    quantile = _Z + (_Z**3 + _Z) / (4 * degrees) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * degrees**2)
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return float(gains.mean()) > quantile * error
