"""Significance of a gain measured on the same rows before and after."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from autotrainer.records.signals import Floats

__all__ = ["FEW_ROWS", "SIGMAS", "row_gains", "significant", "weighted_gains_significant"]

SIGMAS = 1.645
"""One-sided 95% quantile of the normal distribution: larger gains are more than noise."""

FEW_ROWS = 30
"""Number of validation rows up to which a gain may be real even though no test of their scores shows it."""


def row_gains(new: Floats, old: Floats, weights: Floats) -> Floats:
    """Return the gains of the rows with a weight, scaled so that their plain mean is the gain of the weighted mean."""
    used = weights > 0
    with np.errstate(invalid="ignore"):
        gains: Floats = (new - old)[used] * weights[used] * (used.sum() / weights[used].sum())
    return np.nan_to_num(gains, nan=0.0)


def significant(gains: Floats, sigmas: float = SIGMAS) -> bool:
    """Test one-sided whether the mean gain is above zero.

    If all gains have the same magnitude or are zero, this is an exact sign test on the rows that differ (McNemar 1947);
    else a t test, with the quantile approximated from the normal one (Abramowitz and Stegun 1964, 26.7.5).

    Args:
        gains: Gain of each row, shape (rows,).
        sigmas: Level of the test, as a quantile of the normal distribution.
    """
    gains = np.clip(gains, -1e100, 1e100)
    different = gains[gains != 0]
    if len(gains) < 2 or not len(different):
        return False
    sizes = np.abs(different)
    if np.allclose(sizes, sizes[0]):
        wins, total = int((different > 0).sum()), len(different)
        if total <= 1000:
            tail = sum(math.comb(total, k) for k in range(wins, total + 1))
            return bool(tail <= Fraction(math.erfc(sigmas / math.sqrt(2)) / 2) * 2**total)
    degrees = len(gains) - 1
    z = sigmas
    quantile = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return float(gains.mean()) > quantile * error


def weighted_gains_significant(gains: Floats, sigmas: float = SIGMAS) -> bool:
    """Test one-sided whether the sum of gains is above zero, where some rows weigh much more than others.

    McNemar's test with continuity correction (Edwards 1948), with weights: a single row, the heaviest of those that
    differ, decides nothing.

    Args:
        gains: Weighted gain of each row, shape (rows,).
        sigmas: Level of the test, as a quantile of the normal distribution.
    """
    different = gains[gains != 0]
    if not len(different):
        return False
    error = math.sqrt(float((different**2).sum()))
    return float(different.sum()) - float(np.abs(different).max()) > sigmas * error
