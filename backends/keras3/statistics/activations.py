"""Reductions of the outputs of layers to the numbers of the layer table."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.runtime.tensors import array_module, finite_or_inf, sum_of_squares, to_array
from autotrainer.records.measurement import SATURATION_SLOPE, WITHOUT_UNITS, ZERO_REGION
from autotrainer.records.signals import DEAD_WINDOW, DORMANT

__all__ = ["ActivationStatistics"]


class ActivationStatistics:
    """Measures the outputs of layers at one sampled step after the other.

    Args:
        parts: The layers: rows of the table.
    """

    def __init__(self, parts: Sequence[WatchedLayer]) -> None:
        self._zero: list[deque[NDArray[np.bool_]]] = [deque(maxlen=DEAD_WINDOW) for _ in parts]

    def values(self, row: int, part: WatchedLayer, output: Any) -> dict[str, float]:
        """Return the `OUTPUT_COLUMNS` of a layer, by name.

        Args:
            row: Its row.
            part: The layer.
            output: Its output, with at least one entry.
        """
        xp, values = array_module(output)
        if len(values.shape) < 2:
            values = xp.reshape(values, (-1, 1))
        magnitude = xp.abs(values)
        means = xp.mean(values, axis=0)
        variance = sum_of_squares(xp, values - means) / math.prod(values.shape)  # over samples; mean over units
        others = _all_but_units(part, len(values.shape))
        units = to_array(xp.max(magnitude, axis=others))
        numbers = {
            "activation_mean_abs": finite_or_inf(xp.mean(magnitude)),
            "activation_std": finite_or_inf(math.sqrt(variance + float(xp.var(means)))),
            "activation_max_abs": finite_or_inf(np.max(units)),
            "saturated": _saturated(xp, values, magnitude, part.activation),
        }
        if values.shape[0] > 1:
            numbers["activation_spread"] = finite_or_inf(math.sqrt(variance))
        if part.activation in ZERO_REGION:
            numbers["dead_units"] = self._dead_units(row, units == 0)
        gates = getattr(part.layer, "recurrent_activation", None) is not None  # they make the output of LSTM and GRU
        if part.activation not in (None, *WITHOUT_UNITS) and not gates:
            numbers["dormant"] = _dormant(to_array(xp.mean(magnitude, axis=others)))
        return numbers

    def _dead_units(self, row: int, zero: NDArray[np.bool_]) -> float:
        """Return the share of units that were zero in each of the last batches; NaN while there are too few."""
        window = self._zero[row]
        if window and window[-1].shape != zero.shape:
            window.clear()
        window.append(zero)
        return float(np.logical_and.reduce(list(window)).mean()) if len(window) == DEAD_WINDOW else math.nan


def _all_but_units(part: WatchedLayer, rank: int) -> tuple[int, ...]:
    first = getattr(part.layer, "data_format", None) == "channels_first" and rank > 2
    units = 1 if first else rank - 1
    return tuple(axis for axis in range(rank) if axis != units)


def _dormant(sizes: NDArray[Any]) -> float:
    """Return the share of units whose mean size is at most `DORMANT` times that of all units."""
    mean = float(sizes.mean())
    return float((sizes <= DORMANT * mean).mean()) if math.isfinite(mean) else math.inf


def _saturated(xp: Any, values: Any, magnitude: Any, activation: str | None) -> float:
    """Return the share of outputs where the slope of a bounded activation is < 1e-3 of its maximum."""
    if activation == "sigmoid":
        flat = 4.0 * values * (1.0 - values) < SATURATION_SLOPE
    elif activation == "tanh":
        flat = xp.square(values) > 1.0 - SATURATION_SLOPE
    elif activation == "softsign":
        flat = magnitude > 1.0 - math.sqrt(SATURATION_SLOPE)  # its slope is (1 - |output|) ** 2
    elif activation == "hard_sigmoid":
        flat = xp.abs(values - 0.5) >= 0.5
    elif activation == "hard_tanh":
        flat = magnitude >= 1.0
    else:
        return math.nan
    return float(int(xp.count_nonzero(flat)) / math.prod(values.shape))
