"""Special patterns of weights: all zero, one constant, the same for all units, freshly initialized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ORIGIN_SIZE", "is_freshly_initialized", "matrix_origin", "recurrent_form", "vector_origin", "weight_form"]

ORIGIN_SIZE = 128
"""Rows and columns of a matrix that `matrix_origin` needs at most."""

_FEWEST_LINES = 16
"""Rows and columns below which a matrix shows nothing."""

_DRAWN, _TRAINED = 4.0, 7.0
"""Standard errors up to which weights are as if drawn, and from which they are not: six tests of hundreds of layers
exceed the first one by chance in a few of them, the second one never."""

_ITERATIONS = 24

_HEAVY = 4.0
"""Kurtosis (3 for a normal distribution) up to which the largest singular value has the usual distribution."""

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


def vector_origin(values: NDArray[Any]) -> str:
    """Return ``drawn`` if scale or bias of a normalization are still constants, else ``trained``."""
    return "drawn" if _is_constant(values) else "trained"


def matrix_origin(matrix: NDArray[Any]) -> str:
    """Return ``drawn`` if the entries of a matrix look independent and equally distributed, as in an initializer.

    Training gives units and inputs different norms and means, and adds matrices of low rank. Norms and means of rows
    and columns are compared with those of independent entries of the same variance and kurtosis, and the largest
    singular value with its limit (Bai and Yin 1993; fluctuations by Johnstone 2001). The shape of the distribution does
    not matter.

    Args:
        matrix: Shape (rows, columns), evenly strided ones at most `ORIGIN_SIZE` each.

    Returns:
        ``drawn``, ``trained`` if the entries are certainly not like this, or empty if that can't be decided.
    """
    matrix = matrix[(matrix != 0).any(axis=1)]  # not the row of padding
    if min(matrix.shape) < _FEWEST_LINES or not np.isfinite(matrix).all():
        return ""
    scale = float(matrix.std())
    if not scale > 1e-6 * float(np.abs(matrix).max()):
        return "drawn"
    values = matrix / scale
    squares = np.square(values - values.mean())
    scores = [_excess(table, axis) for table in (squares, values) for axis in (0, 1)]
    if np.square(squares).mean() <= _HEAVY:
        rows, columns = values.shape
        edge = math.sqrt(rows - 1) + math.sqrt(columns)
        fluctuation = edge * (1 / math.sqrt(rows - 1) + 1 / math.sqrt(columns)) ** (1 / 3)
        gram = (values if rows <= columns else values.T) - values.mean()
        scores.append((_largest_eigenvalue(gram @ gram.T) - edge**2) / fluctuation)
    highest = max(scores)
    return "trained" if highest >= _TRAINED else ("drawn" if highest <= _DRAWN else "")


def _largest_eigenvalue(gram: NDArray[Any]) -> float:
    """Return the largest eigenvalue of a positive matrix, by power iteration from its largest column.

    One that stands apart is found at once; among close ones, the estimate stays a little below.
    """
    vector = gram[:, np.argmax(np.diag(gram))]
    for _ in range(_ITERATIONS):
        vector = vector / np.linalg.norm(vector)
        vector = gram @ vector
    return float(np.linalg.norm(vector))


def _excess(table: NDArray[Any], axis: int) -> float:
    """Return by how many standard errors the means along an axis differ more than those of independent entries."""
    means = table.mean(axis=axis)
    expected = float(table.var()) / table.shape[axis]
    if not expected > 0:
        return 0.0
    return float((means.var() / expected - 1) * math.sqrt(len(means) / 2))
