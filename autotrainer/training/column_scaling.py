"""How each column of a table is brought to unit scale: fitted on the training rows alone.

Standardization suits most columns. One of prices or counts over several decades stays badly scaled by it: a few rows
are far out, and all others hardly differ. Such a column is taken as an inverse hyperbolic sine, which is the logarithm
far from zero and linear near it (Burbidge, Magee and Robb, JASA 1988), and standardized then. A number far from all
others that stands for missing values, such as -999, is replaced (see `missing_values`). Columns that hold nothing to
learn from, constants and counters of the rows, are dropped. All scaled values are finite in single precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.edits import ScaleInputs
from autotrainer.records.signals import Floats
from autotrainer.training.data_edits import Moments
from autotrainer.training.missing_values import MissingCode, missing_codes

__all__ = ["LOSS", "ColumnScaling", "logarithm"]

_VALUES, _FEWEST_ROWS, _MOST_ROWS = 4_000_000, 500, 20_000
"""Values that are kept, and rows, at least and at most: quantiles of that many are certain enough."""
_GAIN = 1.0
"""Mean gain of the Gaussian log-likelihood of a value (Box and Cox, 1964), in nats, from which a column is taken on a
logarithmic scale. One nat is a standard deviation e times as large as the usual spread, as of log-normal values of a
log-spread of 1.15: 98 % of them cover more than two decades."""
_ENOUGH = 2000
"""Rows, at least, from which the scale of a column is taken."""
_REACH = 3.5
"""Standard deviations that the farthest value is from the mean, at least: values spread evenly over three decades are
at 4, and other columns need not be looked at one by one. Nor need those whose standard deviation is less than e times
that of normal values with the same quartiles, as a number that stands for a missing value makes it, however common."""
_QUARTILES = 1.349
"""Distance of the quartiles of normal values in standard deviations."""
_LOW = 5
"""Percentile of the magnitudes up to which the scale of a logarithm is about linear."""
_DISTINCT = 20
"""Fewest distinct values that have a distribution: with fewer, a scale only renames them."""
_OUTSIDE = 3.0
"""Distance from the mean in standard deviations of what stands for a missing value that says something."""
_TINY, _LARGEST = 1e-30, 1e38
"""Smallest and largest numbers of a scaling: single precision can divide by them."""
LOSS = 0.02
"""Decrease of the share of the target's variance that a column explains linearly, up to which a logarithm loses
nothing: a relation that is linear in the raw values stays linear."""
_MIN_ROWS = 50
"""Fewest rows that show that a column is a row number."""
_SPAN = 2.0
"""Range of whole numbers ÷ their number, at most, if they count rows: a part of the rows may have been held out."""
_CHANCE = 2.0
"""Standard errors of the von Neumann ratio, and of a correlation, within which targets do not depend on a column."""
_MAX_CLASSES, _MAX_TARGETS = 32, 1000
"""Most classes that are compared with the inputs one by one, and most columns of targets: of more, the relation to the
inputs is unknown."""


class ColumnScaling:
    """Fits `ScaleInputs` on batches of rows.

    Rows of rank 1 (tables) are scaled by column, all others (images, sequences) as a whole.
    """

    def __init__(self) -> None:
        self._moments = Moments()
        self._inputs: list[NDArray[Any]] = []
        self._targets: list[NDArray[Any]] = []
        self._rows = self._kept = 0
        self._every = 1

    def add(self, inputs: NDArray[Any], targets: NDArray[Any] | None = None) -> None:
        """Add a batch.

        Args:
            inputs: Shape (rows, …).
            targets: Shape (rows, …); None if they are unknown.
        """
        inputs = np.asarray(inputs, np.float64)
        inputs = np.where(np.abs(inputs) <= np.finfo(np.float32).max, inputs, np.nan)
        self._moments.add(inputs)
        if inputs.ndim != 2 or inputs.shape[1] < 2:
            return
        first = -self._rows % self._every
        self._rows += len(inputs)
        if first >= len(inputs):
            return
        self._inputs.append(inputs[first :: self._every].copy())
        kept = np.empty((len(self._inputs[-1]), 0))
        if targets is not None and len(targets) == len(inputs) and targets.dtype.kind in "biuf":
            kept = np.asarray(targets[first :: self._every], np.float64).reshape(len(kept), -1)
        self._targets.append(kept if kept.shape[1] <= _MAX_TARGETS else kept[:, :0])
        self._kept += len(kept)
        if self._kept > max(_FEWEST_ROWS, min(_MOST_ROWS, _VALUES // (inputs.shape[1] + self._targets[-1].shape[1]))):
            self._thin()

    def _thin(self) -> None:
        """Keep every second of the rows: they stay in order, and evenly spread over the data."""
        self._inputs = [np.concatenate(self._inputs)[::2]]
        self._targets = [self._all_targets()[::2]]
        self._kept, self._every = len(self._inputs[0]), 2 * self._every

    def _all_targets(self) -> NDArray[Any]:
        if len({part.shape[1:] for part in self._targets}) != 1:
            return np.empty((self._kept, 0))
        return np.concatenate(self._targets)

    def fit(self) -> ScaleInputs:
        """Return the edit with all numbers.

        Raises:
            ConfigError: If no value was finite.
        """
        means, stds = _finite_scale(self._moments)
        if not self._inputs:
            return ScaleInputs(tuple(means.tolist()), tuple(stds.tolist()))
        inputs, targets = np.concatenate(self._inputs), _target_columns(self._all_targets())
        center, scale = np.zeros(len(means)), np.zeros(len(means))
        constant = np.flatnonzero(self._moments.constant)
        numbers = self._row_numbers(inputs, targets, constant)
        every = max(1, len(inputs) // _ENOUGH)
        inputs, targets = inputs[::every], None if targets is None else targets[::every]
        missing = missing_codes(inputs)
        fills = _fills(inputs, targets, missing)
        inputs = _without(inputs, missing)
        for column in {code.column for code in missing}:
            values = inputs[:, column][np.isfinite(inputs[:, column])]
            means[column], stds[column] = values.mean(), max(float(values.std()), _TINY)
        reach = np.max(np.where(np.isfinite(inputs), np.abs(inputs - means), 0.0), axis=0) / stds
        lower, upper = (
            np.nanpercentile(inputs, (25, 75), axis=0) if missing else np.percentile(inputs, (25, 75), axis=0)
        )
        spread = (upper - lower) / _QUARTILES
        wide = (reach >= _REACH) | ((spread > 0) & (spread * math.exp(_GAIN) <= stds))
        for column in np.setdiff1d(np.flatnonzero(wide), [*constant, *numbers]):
            transform = logarithm(inputs[:, column], partial(_loses, targets))
            if transform is None:
                continue
            center[column], scale[column] = transform
            values = np.arcsinh((inputs[:, column] - center[column]) / scale[column])
            values = values[np.isfinite(values)]
            means[column], stds[column] = values.mean(), values.std()
        log = (center, scale) if scale.any() else (np.zeros(0), np.zeros(0))
        if len(constant) + len(numbers) == len(means):
            constant = numbers = np.zeros(0, np.int64)
        first, second, third, fourth = (tuple(values.tolist()) for values in (means, stds, *log))
        constants, counters = (tuple(columns.tolist()) for columns in (constant, numbers))
        codes = tuple(code.column for code in missing), tuple(code.value for code in missing)
        return ScaleInputs(first, second, third, fourth, constants, counters, *codes, fills)

    def _row_numbers(self, inputs: Floats, targets: Floats | None, constant: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the columns that only number the rows in their order: whole numbers, nearly without gaps.

        Whole numbers in any other order may be a rank, on which the targets may depend together with another column.
        A column on which the targets depend by itself is kept, such as a time, and so is the only one.
        """
        rows = len(inputs)
        none = np.zeros(0, np.int64)
        if self._every > 1 or rows < _MIN_ROWS or targets is None or inputs.shape[1] - len(constant) < 2:
            return none
        steps = np.diff(inputs, axis=0)
        counter = ((steps > 0).all(0) | (steps < 0).all(0)) & (inputs == np.round(inputs)).all(0)
        dense = np.abs(inputs[-1] - inputs[0]) + 1 <= _SPAN * rows
        columns = [column for column in np.flatnonzero(counter & dense) if not _depends(targets, inputs[:, column])]
        return np.array(columns, np.int64) if len(columns) + len(constant) < inputs.shape[1] else none


def _without(inputs: Floats, missing: list[MissingCode]) -> Floats:
    """Return inputs with NaN in place of the numbers that stand for missing values."""
    inputs = inputs.copy() if missing else inputs
    for code in missing:
        values = inputs[:, code.column]
        values[values == code.value] = np.nan
    return inputs


def _fills(inputs: Floats, targets: Floats | None, missing: list[MissingCode]) -> tuple[float, ...]:
    """Return what takes the place of numbers that stand for missing values, in standard deviations from the mean.

    That is the mean. If the targets depend on whether a value is missing, it is a number outside the others, on the
    side of the code, which the model can tell apart.
    """
    fills = []
    for code in missing:
        found = (inputs[:, code.column] == code.value).astype(np.float64)
        tells = targets is not None and targets.size and 0 < found.mean() < 1
        depends = bool(tells) and bool((_explained(found, targets) > LOSS).any())  # type: ignore[arg-type]
        fills.append(math.copysign(_OUTSIDE, code.value - code.low) if depends else 0.0)
    return tuple(fills)


def _target_columns(targets: NDArray[Any]) -> Floats | None:
    """Return numeric targets by column, classes as indicators; None if there are none, or they are not finite."""
    if not targets.size or not np.isfinite(targets).all():
        return None
    if targets.shape[1] == 1 and (targets == np.round(targets)).all():
        classes = np.unique(targets)
        if 2 < len(classes) <= _MAX_CLASSES:
            targets = np.asarray(targets == classes, np.float64)
    return targets[:, targets.std(0) > 0]


def _finite_scale(moments: Moments) -> tuple[Floats, Floats]:
    """Return means and standard deviations of columns with which all values are finite in single precision.

    Where the usual ones are too large, 0 and the largest magnitude take their place.
    """
    means, stds = map(np.array, moments.scale())
    extremes = np.stack((moments.least, moments.most))
    stds = np.clip(stds, _TINY, _LARGEST)
    safe = _is_finite(extremes, means, stds) & (np.abs(means) <= _LARGEST)
    return np.where(safe, means, 0.0), np.where(safe, stds, np.clip(np.abs(extremes).max(0), _TINY, _LARGEST))


def _depends(targets: Floats, column: Floats) -> bool:
    """Return whether targets in the order of the rows, which a column counts, are unlike targets in random order.

    Compares the differences of neighbours with the variance (von Neumann, 1941), which shows any relation, monotone or
    not, that does not change from row to row at random; a weak trend shows in the correlation.
    """
    rows = len(targets)
    ratio = (np.diff(targets, axis=0) ** 2).sum(0) / (2 * ((targets - targets.mean(0)) ** 2).sum(0))
    error = math.sqrt((rows - 2) / (rows**2 - 1))
    if (np.abs(ratio - 1) > _CHANCE * error).any():
        return True
    return bool((_explained(column, targets) > _CHANCE**2 / rows).any())


def logarithm(column: Floats, loses: Callable[[Floats, Floats], bool]) -> tuple[float, float] | None:
    """Return center and scale of the inverse hyperbolic sine that suits a column; None if it is better without.

    Zeros are left out, as they may be a value of their own, such as "none".

    Args:
        column: Values, shape (rows,).
        loses: Returns whether the changed column (second) lacks a relation that the raw one (first) has.
    """
    values = column[np.isfinite(column)]
    values = values[values != 0]
    if len(values) < _MIN_ROWS or len(np.unique(values)) < _DISTINCT:
        return None
    best, gain = None, _GAIN
    for center, scale in _candidates(values):
        with np.errstate(over="ignore"):
            scaled = (values - center) / scale
            changed = np.arcsinh(scaled)
            # log-likelihood of normal values ÷ rows, with the Jacobian of the change
            more = math.log(values.std()) - math.log(changed.std() * scale) - 0.5 * np.log1p(scaled**2).mean()
        if more >= gain and not loses(column, np.arcsinh((column - center) / scale)):
            best, gain = (center, scale), more
    return best


def _candidates(values: Floats) -> list[tuple[float, float]]:
    """Return centers and scales: a logarithm of values of one sign, and a robust scale around the median.

    Those with which a value is not finite in single precision are left out.
    """
    median = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - median)))
    low = float(np.percentile(np.abs(values), _LOW))
    one_sided = [(0.0, low)] if (values > 0).all() or (values < 0).all() else []
    return [
        (center, scale)
        for center, scale in (*one_sided, (median, spread))
        if _TINY < scale <= _LARGEST and abs(center) <= _LARGEST and _is_finite(values, center, scale).all()
    ]


def _is_finite(values: Floats, center: Floats | float, scale: Floats | float) -> NDArray[np.bool_]:
    """Return for each column whether its scaled values are finite in single precision."""
    with np.errstate(over="ignore"):
        scaled = (values.astype(np.float32) - np.float32(center)) / np.float32(scale)
    return np.asarray(np.isfinite(scaled).all(0))


def _loses(targets: Floats | None, column: Floats, changed: Floats) -> bool:
    """Return whether a target is explained less well by a linear function of the changed column than of the raw one."""
    if targets is None or not targets.size:
        return False
    kept = np.isfinite(column)
    raw, new = (_explained(values[kept], targets[kept]) for values in (column, changed))
    return bool((raw - new > LOSS).any())


def _explained(values: Floats, targets: Floats) -> Floats:
    """Return the share of the variance of each target that a linear function of one column explains."""
    values, targets = values - values.mean(), targets - targets.mean(0)
    norms = np.linalg.norm(values) * np.linalg.norm(targets, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Floats = np.nan_to_num((values @ targets / norms) ** 2)
    return shares
