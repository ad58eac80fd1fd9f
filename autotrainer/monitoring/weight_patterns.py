"""Tells weights of a special form from their values: all zero, one constant, the same for all units, just drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_drawn", "recurrent_form", "weight_form"]

_LEAST, _LEAST_NORMAL = 256, 4096

_LEVEL = 1.95
"""Distance of Kolmogorov and Smirnov, times the root of the number of values, that chance exceeds in 0.1 % of cases."""


def weight_form(matrix: NDArray[Any]) -> str:
    """Return the form of the weights of a layer without recurrence, as `LayerInfo.start` has it.

    A single unit is not equal to others, nor is a single input.

    Args:
        matrix: Shape (units, inputs, places), none of them zero.
    """
    if not matrix.any():
        return "zero"
    units = matrix.shape[0] > 1 and bool((matrix == matrix[:1]).all())
    inputs = matrix.shape[1] > 1 and bool((matrix == matrix[:, :1]).all())
    if units and (inputs or _is_one_value(matrix)):
        return "constant"
    return "equal_units" if units else ("equal_inputs" if inputs else "")


def recurrent_form(matrices: Sequence[NDArray[Any]]) -> str:
    """Return ``constant`` if all matrices of a recurrent layer hold one value each, and not only zeros, else ``""``.

    Args:
        matrices: Those of inputs and of states, none of them empty.
    """
    alike = all(_is_one_value(matrix) for matrix in matrices)
    return "constant" if alike and any(matrix.flat[0] for matrix in matrices) else ""


def _is_one_value(values: NDArray[Any]) -> bool:
    return bool((values == values.flat[0]).all())


def is_drawn(values: NDArray[Any], bounds: Sequence[float], deviations: Sequence[float]) -> bool:
    """Say whether values look as an initializer has just drawn them: training keeps neither edges nor distribution.

    Their distribution must be that of the initializer by the test of Kolmogorov and Smirnov, at a level of 0.1 %. A
    uniform one also reaches both bounds up to what chance leaves free, and never passes them.

    Args:
        values: Flat; at least 256, and 4096 for a normal distribution, which trained weights resemble more.
        bounds: Largest values of usual uniform distributions around zero.
        deviations: Standard deviations of usual normal distributions around zero.
    """
    count = values.size
    if count < _LEAST or not np.isfinite(values).all():
        return False
    ordered = np.sort(values.ravel())
    for bound in bounds:
        ends = np.array([-ordered[0], ordered[-1]]) / bound
        reached = (ends >= 1 - 20 / count).all() and (ends <= 1 + 1e-5).all()  # one misses by chance once in e^10
        if reached and _distance(ordered / (2 * bound) + 0.5) <= _LEVEL / math.sqrt(count):
            return True
    if count < _LEAST_NORMAL:
        return False
    below = np.array([_normal(ordered / deviation) for deviation in deviations])
    return any(_distance(one) <= _LEVEL / math.sqrt(count) for one in below)


def _distance(expected: NDArray[Any]) -> float:
    """Return how far the observed distribution is from the expected one, given at the ordered values."""
    ranks = np.arange(len(expected) + 1) / len(expected)
    return float(max(np.abs(expected - ranks[:-1]).max(), np.abs(expected - ranks[1:]).max()))


def _normal(values: NDArray[Any]) -> NDArray[Any]:
    return 0.5 + 0.5 * np.fromiter(map(math.erf, (values / math.sqrt(2)).tolist()), np.float64, len(values))
