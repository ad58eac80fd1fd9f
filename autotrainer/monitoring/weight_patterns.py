"""Special patterns of weights: all zero, one constant, the same for all units, freshly initialized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_freshly_initialized", "recurrent_form", "weight_form"]

_MIN_VALUES, _MIN_VALUES_NORMAL = 256, 4096

_CRITICAL = 1.95
"""Critical value of the Kolmogorov-Smirnov statistic times the root of the sample size, at the 0.1% level."""


def weight_form(matrix: NDArray[Any]) -> str:
    """Return the pattern of the weights of a layer without recurrence, as in `LayerInfo.start`.

    A single unit does not count as equal units, nor a single input as equal inputs.

    Args:
        matrix: Shape (units, inputs, positions), none of them zero.
    """
    if not matrix.any():
        return "zero"
    units = matrix.shape[0] > 1 and bool((matrix == matrix[:1]).all())
    inputs = matrix.shape[1] > 1 and bool((matrix == matrix[:, :1]).all())
    if units and (inputs or _is_constant(matrix)):
        return "constant"
    return "equal_units" if units else ("equal_inputs" if inputs else "")


def recurrent_form(matrices: Sequence[NDArray[Any]]) -> str:
    """Return ``constant`` if all matrices of a recurrent layer are constant and not all are zero, else ``""``.

    Args:
        matrices: Input and state weights, none of them empty.
    """
    constant = all(_is_constant(matrix) for matrix in matrices)
    return "constant" if constant and any(matrix.flat[0] for matrix in matrices) else ""


def _is_constant(values: NDArray[Any]) -> bool:
    return bool((values == values.flat[0]).all())


def is_freshly_initialized(values: NDArray[Any], bounds: Sequence[float], deviations: Sequence[float]) -> bool:
    """Return whether weights look as if freshly drawn by an initializer; training changes their distribution.

    The distribution must match that of an initializer by a Kolmogorov-Smirnov test at the 0.1% level. Uniform weights
    must also come close to both bounds and not exceed them.

    Args:
        values: Flat; at least 256, or 4096 for a normal distribution, which trained weights resemble more.
        bounds: Bounds of common uniform initializers, symmetric about zero.
        deviations: Standard deviations of common normal initializers, centered at zero.
    """
    count = values.size
    if count < _MIN_VALUES or not np.isfinite(values).all():
        return False
    ordered = np.sort(values.ravel())
    for bound in bounds:
        ends = np.array([-ordered[0], ordered[-1]]) / bound
        reached = (ends >= 1 - 20 / count).all() and (ends <= 1 + 1e-5).all()  # by chance, one is missed once in e^10
        if reached and _distance(ordered / (2 * bound) + 0.5) <= _CRITICAL / math.sqrt(count):
            return True
    if count < _MIN_VALUES_NORMAL:
        return False
    return any(_distance(_normal_cdf(ordered / std)) <= _CRITICAL / math.sqrt(count) for std in deviations)


def _distance(expected: NDArray[Any]) -> float:
    """Return the Kolmogorov-Smirnov distance, given the expected distribution function at the ordered values."""
    ranks = np.arange(len(expected) + 1) / len(expected)
    return float(max(np.abs(expected - ranks[:-1]).max(), np.abs(expected - ranks[1:]).max()))


def _normal_cdf(values: NDArray[Any]) -> NDArray[Any]:
    return 0.5 + 0.5 * np.fromiter(map(math.erf, (values / math.sqrt(2)).tolist()), np.float64, len(values))
