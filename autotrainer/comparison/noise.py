"""How far seeds scatter a statistic, and tests of differences with few runs a side: moderated t statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from autotrainer.records.signals import Floats

__all__ = ["difference_z", "log_p", "significant_cells", "simes", "usual_spread"]

_PRIOR_RUNS = 5.0
"""Degrees of freedom that the usual spread is worth (d0 of Smyth 2004). With 6, one healthy run in seventy was beyond
chance at the level of 1 %, with 3 none."""

_SPREADS: Mapping[str, float] = {
    "grad_norm": 0.2,
    "weight_norm": 0.015,
    "update_ratio": 0.12,
    "activation_mean_abs": 0.08,
    "activation_std": 0.08,
    "activation_max_abs": 0.12,
    "activation_spread": 0.08,
    "attention_entropy": 0.06,
    "attention_max_logit": 0.2,
    "loss": 0.15,
    "data_loss": 0.15,
    "accuracy": 0.06,
    "squared_error": 0.15,
    "absolute_error": 0.1,
    "grad_zero_fraction": 0.1,
    "dead_units": 0.1,
    "dormant": 0.1,
    "saturated": 0.1,
    "second_moment_ratio": 0.1,
    "feature_rank": 0.03,
    "gradient_cosine": 0.12,
    "output_spread": 0.12,
    "class_entropy": 0.05,
    "target_spread": 0.05,
    "input_max_abs": 0.06,
    "input_std": 0.02,
    "input_offset": 0.4,
    "input_scale_ratio": 0.05,
}
"""Usual standard deviation between seeds, on the scale of `Scales`: medians over layers and healthy trainings of the
generated families (seeds below 100; eight seeds of each training)."""

_NORMS, _GRADIENTS = ("weight_norm", "_rms"), "grad"
"""Parts of the names of statistics whose spread is that of ``weight_norm`` or ``grad_norm``."""
_OTHER, _VALIDATION_SHARE, _VALIDATION_LOSS = 0.15, 0.02, 0.08
_RELATIVE_WEIGHTS = 0.5
"""Relative standard deviation of the norm of n random weights × √n: 0.45 if they are uniform, 0.71 if normal."""


def usual_spread(statistic: str, *, parameters: int = 0, share: bool = False) -> float:
    """Return the usual standard deviation of a statistic between seeds.

    Args:
        statistic: Name of a statistic of layers, steps or epochs.
        parameters: Parameters of the layer.
        share: Whether it is a metric in [0, 1].
    """
    if statistic == "bias_rms":  # 0 at the start, and as far from it as training has brought it
        return _SPREADS["grad_norm"]
    if statistic.endswith(_NORMS) and _GRADIENTS not in statistic and parameters:
        return math.hypot(_SPREADS["weight_norm"], _RELATIVE_WEIGHTS / math.sqrt(parameters))
    if statistic in _SPREADS:
        return _SPREADS[statistic]
    if statistic.endswith(("_grad_rms", "_grad_norm")):
        return _SPREADS["grad_norm"]
    if share:
        return _VALIDATION_SHARE
    return _VALIDATION_LOSS if "loss" in statistic else _OTHER


def difference_z(baseline: Floats, runs: Floats, spread: Floats) -> Floats:
    """Return the difference of two groups of runs in standard deviations of chance.

    A t statistic whose variance is a mean of that between the runs of each group and of the usual one (Smyth, Stat.
    Appl. Genet. Mol. Biol. 3, 2004), turned into the normal quantile of the same probability (Wallace 1959).

    Args:
        baseline: Values, shape (runs, ...); NaN where unknown.
        runs: Values of the other group.
        spread: Usual standard deviation between runs, shape (...).

    Returns:
        Shape (...): positive where ``runs`` are higher; NaN where one group has no value.
    """
    (mean, scatter, n), (other_mean, other_scatter, m) = map(_moments, (baseline, runs))
    degrees = _PRIOR_RUNS + np.maximum(n - 1, 0) + np.maximum(m - 1, 0)
    variance = (_PRIOR_RUNS * spread**2 + scatter + other_scatter) / degrees
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (other_mean - mean) / np.sqrt(variance * (1 / n + 1 / m))
        z = np.sign(t) * np.sqrt(degrees * np.log1p(t**2 / degrees)) * (8 * degrees + 1) / (8 * degrees + 3)
    return np.where((n > 0) & (m > 0), z, np.nan)


def _moments(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return mean, sum of squared deviations, and number of values over the runs."""
    measured = ~np.isnan(values)
    n = measured.sum(axis=0).astype(np.float64)
    mean = np.where(measured, values, 0.0).sum(axis=0) / np.maximum(n, 1)
    return mean, np.where(measured, (values - mean) ** 2, 0.0).sum(axis=0), n


def log_p(z: Floats) -> Floats:
    """Return the logarithm of the two-sided probability that chance gives |z| or more.

    The complementary error function after Numerical Recipes, section 6.2: relative error below 1.2e-7.
    """
    x = np.abs(z) / math.sqrt(2)
    t = 1 / (1 + 0.5 * x)
    coefficients = (
        *(0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807),
        *(-0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223),
    )
    return np.asarray(np.minimum(0.0, np.log(t) - x**2 + np.polyval(coefficients, t)))


def simes(z: Floats) -> float:
    """Return the logarithm of the probability that chance gives such a set of z, whichever of them are large.

    Simes (Biometrika 73, 1986): valid for independent tests and for the usual kinds of positive dependence.

    Args:
        z: Any shape; NaN is ignored.
    """
    logs = np.sort(log_p(z[np.isfinite(z)]))
    if not logs.size:
        return 0.0
    return min(0.0, float((logs + math.log(logs.size) - np.log(np.arange(1, logs.size + 1))).min()))


def significant_cells(z: Floats, level: float) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return which z are significant at a false discovery rate (Benjamini and Hochberg 1995)."""
    logs = np.where(np.isfinite(z), log_p(np.nan_to_num(z)), np.inf)
    ordered = np.sort(logs[np.isfinite(logs)])
    passed = ordered <= math.log(level) + np.log(np.arange(1, ordered.size + 1) / max(1, ordered.size))
    limit = ordered[passed][-1] if passed.any() else -np.inf
    return np.asarray(logs <= limit)
