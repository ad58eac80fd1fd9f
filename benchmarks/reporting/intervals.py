"""Confidence intervals and tests of the benchmarks; the case is the unit, since its seeds are not independent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["Interval", "bootstrap_mean", "difference", "mcnemar", "signed_rank", "wilson"]

Interval = tuple[float, float]

_Z = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson(part: float, whole: float) -> Interval:
    """Return the 95 % Wilson score interval of a share, in [0, 1]; NaN without trials.

    Args:
        part: Successes; a fraction where trials were averaged.
        whole: Independent trials.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927), 209.
    """
    if not whole:
        return math.nan, math.nan
    share, spread = part / whole, _Z**2 / whole
    middle = share + spread / 2
    half = _Z * math.sqrt(share * (1 - share) / whole + spread / (4 * whole))
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return (max(0.0, low) if part else 0.0), (min(1.0, high) if part < whole else 1.0)


def difference(part: int, whole: int, other_part: int, other_whole: int) -> tuple[float, float, float]:
    """Return the difference of two independent shares and its 95 % interval; NaN where one has no trials.

    Args:
        part: Successes of the first.
        whole: Trials of the first.
        other_part: Successes of the second, which is subtracted.
        other_whole: Trials of the second.

    Source: Newcombe, Stat. Med. 17 (1998), 873, method 10.
    """
    if not whole or not other_whole:
        return math.nan, math.nan, math.nan
    first, second = part / whole, other_part / other_whole
    (low, high), (other_low, other_high) = wilson(part, whole), wilson(other_part, other_whole)
    middle = first - second
    down = math.hypot(first - low, other_high - second)
    up = math.hypot(high - first, second - other_low)
    return middle, middle - down, middle + up


def bootstrap_mean(groups: Mapping[str, Sequence[float]], *, draws: int = 4000) -> tuple[float, float, float]:
    """Return the mean over cases of their mean over seeds, and its 95 % percentile interval.

    Cases are resampled, and within each case its seeds.

    Args:
        groups: Values of the seeds, by case.
        draws: Bootstrap samples, drawn with a fixed seed.

    Returns:
        Mean, lower and upper end; NaN without values.
    """
    values = [np.asarray(group, np.float64) for group in groups.values() if len(group)]
    if not values:
        return math.nan, math.nan, math.nan
    draw = np.random.default_rng(0)
    # One row per case: means of resampled seeds. Resampling cases and seeds separately needs cases × draws numbers.
    means = np.stack([group[draw.integers(0, len(group), (draws, len(group)))].mean(1) for group in values])
    chosen = draw.integers(0, len(values), (len(values), draws))
    drawn = means[chosen, np.arange(draws)].mean(0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(np.mean([group.mean() for group in values])), float(low), float(high)


def mcnemar(lost: int, gained: int) -> float:
    """Return the two-sided exact p of McNemar's test: the chance of changed pairs at least this one-sided.

    Args:
        lost: Pairs that were right before and are wrong now.
        gained: Pairs that were wrong before and are right now.
    """
    changed = lost + gained
    tail = sum(math.comb(changed, k) for k in range(min(lost, gained) + 1))
    return min(1.0, 2 * tail / (1 << changed))


def signed_rank(gains: Sequence[float]) -> float:
    """Return the one-sided p of Wilcoxon's signed-rank test that gains are above zero; 1 if all are zero.

    With five seeds, only five gains give a p below 0.05: 0.031.
    """
    if not any(gains):
        return 1.0
    from scipy.stats import wilcoxon  # type: ignore[import-untyped]  # installed with scikit-learn

    return float(wilcoxon(gains, alternative="greater", zero_method="pratt").pvalue)
