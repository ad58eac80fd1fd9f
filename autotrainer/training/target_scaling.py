"""How targets are brought to unit scale for the loss: fitted on the training rows alone.

Standardization suits most targets. With targets over several decades, a squared error is that of a few rows, and all
others hardly differ: they are taken as an inverse hyperbolic sine, as columns of inputs are (see `column_scaling`), and
standardized then. Where the inputs explain the raw targets linearly as well or better, they stay as they are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.edits import ScaleTargets
from autotrainer.errors import ConfigError
from autotrainer.records.signals import Floats
from autotrainer.training.column_scaling import LOSS, logarithm
from autotrainer.training.data_edits import Moments

__all__ = ["TargetScaling"]

_ROWS = 4000
"""Rows, at most, from which the scale of a logarithm is taken: an even share of all."""
_MAX_INPUTS = 200
"""Columns of inputs, at most, of which a linear relation is looked for: of more, it is unknown."""
_ROWS_PER_COLUMN = 5
"""Rows for each column of the inputs, at least, from which a linear relation shows."""


class TargetScaling:
    """Fits `ScaleTargets` on batches of rows.

    Args:
        edit: The edit without numbers.
    """

    def __init__(self, edit: ScaleTargets) -> None:
        self._edit = edit
        self._moments = Moments()
        self._targets: list[NDArray[Any]] = []
        self._inputs: list[NDArray[Any]] = []
        self._rows, self._kept, self._every = 0, 0, 1

    def add(self, targets: NDArray[Any], inputs: NDArray[Any] | None = None) -> None:
        """Add a batch.

        Args:
            targets: Shape (rows, ...).
            inputs: Shape (rows, ...); None if they are unknown.
        """
        columns = np.asarray(targets, np.float64)
        columns = columns if columns.ndim == 2 else columns.reshape(-1, 1)
        self._moments.add(columns)
        if not self._edit.logarithm:
            return
        first = -self._rows % self._every
        self._rows += len(columns)
        self._targets.append(columns[first :: self._every].copy())
        table = inputs is not None and len(inputs) == len(columns) and inputs.ndim == 2 and inputs.dtype.kind in "biuf"
        known = table and inputs is not None and inputs.shape[1] <= _MAX_INPUTS
        kept = inputs[first :: self._every] if known and inputs is not None else np.empty((len(self._targets[-1]), 0))
        self._inputs.append(np.asarray(kept, np.float64))
        self._kept += len(self._targets[-1])
        if self._kept > 2 * _ROWS:
            self._targets, self._inputs = [np.concatenate(self._targets)[::2]], [self._all_inputs()[::2]]
            self._kept, self._every = len(self._targets[0]), 2 * self._every

    def _all_inputs(self) -> Floats:
        if len({part.shape[1:] for part in self._inputs}) != 1:
            return np.empty((self._kept, 0))
        return np.concatenate(self._inputs)

    def fit(self) -> ScaleTargets:
        """Return the edit with all numbers.

        Raises:
            ConfigError: If no value was finite, or no column is to be taken on a logarithmic scale.
        """
        mean, std = map(np.array, self._moments.scale())
        if not self._edit.logarithm:
            return ScaleTargets(tuple(mean.tolist()), tuple(std.tolist()))
        targets, inputs = np.concatenate(self._targets), self._all_inputs()
        every = max(1, len(targets) // _ROWS)
        targets, loses = targets[::every], partial(_loses, inputs[::every])
        center, scale, reach = np.zeros(len(mean)), np.zeros(len(mean)), np.ones(len(mean))
        for column in range(len(mean)):
            transform = logarithm(targets[:, column], loses)
            if transform is None:
                continue
            center[column], scale[column] = transform
            changed = np.arcsinh((targets[:, column] - center[column]) / scale[column])
            changed = changed[np.isfinite(changed)]
            mean[column], std[column] = changed.mean(), changed.std()
            ends = np.array([self._moments.least[column], self._moments.most[column]])
            ends = np.arcsinh((ends - center[column]) / scale[column])
            reach[column] = np.abs(ends - mean[column]).max() / std[column]
        if not scale.any():
            raise ConfigError("the targets don't span orders of magnitude, or depend linearly on the inputs")
        first, second, *logarithms = (tuple(each.tolist()) for each in (mean, std, center, scale, reach))
        return ScaleTargets(first, second, True, *logarithms)


def _loses(inputs: Floats, raw: Floats, changed: Floats) -> bool:
    """Return whether the inputs explain the changed targets less well linearly than the raw ones."""
    kept = np.isfinite(raw) & np.isfinite(inputs).all(axis=1)
    inputs, raw, changed = inputs[kept], raw[kept], changed[kept]
    if not inputs.shape[1] or len(inputs) < _ROWS_PER_COLUMN * inputs.shape[1]:
        return False
    spread = inputs.std(axis=0)
    table = (inputs - inputs.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    centered = np.stack([(values - values.mean()) / (values.std() or 1.0) for values in (raw, changed)], axis=1)
    left = centered - table @ np.linalg.lstsq(table, centered, rcond=None)[0]
    before, after = 1 - (left**2).mean(axis=0)
    return bool(before - after > LOSS)
