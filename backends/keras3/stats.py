"""Reductions of weights, gradients and activations to the numbers of the layer table.

Written once for two homes of an array: in host memory NumPy reduces it, on an accelerator the same calls of
`keras.ops` do, and only scalars travel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.parts import Part
from autotrainer.signals import DEAD_WINDOW, LAYER_COLUMNS, MAX_FEATURES, MAX_ROWS, MAX_VALUES, Floats

__all__ = ["LayerMeter", "first_rows", "scalar", "to_array"]

_COLUMN = {name: place for place, name in enumerate(LAYER_COLUMNS)}
_SAMPLED_WEIGHTS = 4096
_FLAT = 1e-3
"""Share of an activation's largest slope below which an entry counts as saturated."""


def to_array(tensor: Any) -> NDArray[Any]:
    """Return a tensor of any engine as a NumPy array; floating types come as float32 or wider."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach()
    array = np.asarray(keras.ops.convert_to_numpy(tensor))
    return array if array.dtype.kind in "iubf" and array.dtype.itemsize > 1 or array.dtype == bool else _widened(array)


def scalar(value: Any) -> float:
    """Return a one-element tensor or number as a float: infinity if it is not finite."""
    number = float(np.asarray(to_array(value) if keras.ops.is_tensor(value) else value).reshape(-1)[0])
    return number if np.isfinite(number) else float("inf")


def first_rows(tensor: Any, *, features: bool = False) -> NDArray[Any] | None:
    """Copy the first rows of a batch to host memory, within the limits of `autotrainer.signals`.

    Args:
        tensor: Shape (rows, ...).
        features: Whether columns of a wide table may be left out (inputs).

    Returns:
        Shape (rows, ...), or None for what is not a numeric tensor with rows.
    """
    shape = tuple(getattr(tensor, "shape", ()))
    if not shape or not all(shape) or "string" in str(getattr(tensor, "dtype", "string")):
        return None
    if features and len(shape) == 2 and shape[1] > MAX_FEATURES:
        tensor = tensor[:, :: -(-shape[1] // MAX_FEATURES)]
    size = int(np.prod(tensor.shape[1:], dtype=np.int64))
    rows = min(MAX_ROWS, max(1, MAX_VALUES // max(1, size)))
    return to_array(tensor[:rows])


class LayerMeter:
    """Fills the layer table of one sampled step after the other.

    Args:
        parts: The layers: rows of the table.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._zero: list[deque[NDArray[np.bool_]]] = [deque(maxlen=DEAD_WINDOW) for _ in parts]
        self._before: list[tuple[float, Floats]] = []

    def before_step(self) -> None:
        """Remember norm and sampled entries of all trainable weights."""
        self._before = [(_norm(_trainable(part)), _entries(_trainable(part))) for part in self.parts]

    def table(
        self, seen: Mapping[str, Any], without: Container[str] = (), *, scale: float = 1.0, updated: bool = True
    ) -> Floats:
        """Return the layer table of the step that has just been taken.

        Args:
            seen: What `instrument.Recorder` recorded: ``activation:<row>`` and ``gradient:<row>:<weight>``.
            without: Names of gradients that the optimizer was given as None.
            scale: Factor by which the loss was scaled, and so the gradients are.
            updated: Whether the optimizer changed weights in this step (not when it only accumulates).

        Returns:
            Shape (layers, len(LAYER_COLUMNS)).
        """
        table = np.full((len(self.parts), len(LAYER_COLUMNS)), np.nan)
        with np.errstate(all="ignore"):
            for row, part in enumerate(self.parts):
                weights = _trainable(part)
                if weights and self._before:
                    self._weights(table[row], self._before[row], weights, updated)
                    self._gradients(table[row], row, part, seen, without, scale)
                output = seen.get(f"activation:{row}")
                if output is not None:
                    self._activations(table[row], row, part, output)
        self._before = []
        return table

    def _weights(self, out: Floats, before: tuple[float, Floats], weights: list[Any], updated: bool) -> None:
        norm, entries = before
        out[_COLUMN["weight_norm"]] = norm
        if updated and entries.size:
            change = np.linalg.norm(_entries(weights) - entries)
            length = np.linalg.norm(entries)
            out[_COLUMN["update_ratio"]] = _measured(change / length) if length or not change else np.inf
            if not length and not change:
                out[_COLUMN["update_ratio"]] = 0.0

    def _gradients(
        self, out: Floats, row: int, part: Part, seen: Mapping[str, Any], without: Container[str], scale: float
    ) -> None:
        squares, zeros, size, given = 0.0, 0, 0, False
        for place, weight in enumerate(part.weights):
            key = f"gradient:{row}:{place}"
            if not weight.trainable or not (key in seen or f"{key}:values" in seen or key in without):
                continue
            given = True
            entries = int(np.prod(weight.shape, dtype=np.int64))
            size += entries
            gradient = _dense_rows(seen, key)
            if gradient is None:
                zeros += entries
                continue
            xp, array = _home(gradient)
            squares += float(xp.sum(xp.square(array)))
            zeros += entries - int(xp.count_nonzero(array))
        if given:
            out[_COLUMN["grad_norm"]] = _measured(np.sqrt(squares) / scale)
            out[_COLUMN["grad_zero_fraction"]] = zeros / max(size, 1)

    def _activations(self, out: Floats, row: int, part: Part, output: Any) -> None:
        shape = tuple(output.shape)
        if not shape or not all(shape):
            return
        xp, values = _home(output)
        if len(shape) == 1:
            values = xp.reshape(values, (-1, 1))
        magnitude = xp.abs(values)
        means, variances = xp.mean(values, axis=0), xp.var(values, axis=0)
        spread = float(xp.mean(variances))
        out[_COLUMN["activation_mean_abs"]] = _measured(float(xp.mean(magnitude)))
        out[_COLUMN["activation_std"]] = _measured(np.sqrt(spread + float(xp.var(means))))
        out[_COLUMN["activation_max_abs"]] = _measured(float(xp.max(magnitude)))
        out[_COLUMN["activation_spread"]] = _measured(np.sqrt(spread))
        zero = xp.max(magnitude, axis=tuple(range(len(values.shape) - 1))) == 0
        window = self._zero[row]
        zero_units = np.asarray(zero if xp is np else keras.ops.convert_to_numpy(zero))
        if window and window[-1].shape != zero_units.shape:
            window.clear()
        window.append(zero_units)
        out[_COLUMN["dead_units"]] = float(np.mean(np.logical_and.reduce(list(window))))
        out[_COLUMN["saturated"]] = _saturated(xp, magnitude, values, part.activation)


def _saturated(xp: Any, magnitude: Any, values: Any, activation: str | None) -> float:
    """Return the share of outputs where the slope of a bounded activation is < 1e-3 of its maximum."""
    if activation == "sigmoid":
        slope = 4.0 * values * (1.0 - values)
    elif activation == "tanh":
        slope = 1.0 - xp.square(values)
    elif activation == "softsign":
        slope = xp.square(1.0 - magnitude)
    elif activation == "hard_sigmoid":
        slope = xp.minimum(values, 1.0 - values)
    elif activation == "hard_tanh":
        slope = 1.0 - magnitude
    else:
        return float("nan")
    limit = 0.0 if activation in ("hard_sigmoid", "hard_tanh") else _FLAT
    flat = slope <= limit if limit == 0.0 else slope < limit
    return float(xp.mean(flat if xp is np else xp.cast(flat, "float32")))


def _dense_rows(seen: Mapping[str, Any], key: str) -> Any:
    """Return a gradient; of a sparse one the rows that were touched, summed where they repeat; None if there is none."""
    if key in seen:
        return seen[key]
    if f"{key}:values" not in seen:
        return None
    values, indices = to_array(seen[f"{key}:values"]), to_array(seen[f"{key}:indices"])
    rows, places = np.unique(indices, return_inverse=True)
    summed = np.zeros((len(rows), *values.shape[1:]), values.dtype)
    np.add.at(summed, places, values)
    return summed


def _home(tensor: Any) -> tuple[Any, Any]:
    """Return the module that is to reduce a tensor, and the tensor as that module takes it, in 32 bits or more."""
    if isinstance(tensor, np.ndarray) or "cpu" in str(getattr(tensor, "device", "cpu")).lower():
        array = to_array(tensor) if not isinstance(tensor, np.ndarray) else tensor
        return np, array if array.dtype.kind == "f" else array.astype(np.float32)
    return keras.ops, keras.ops.cast(tensor, "float32")


def _trainable(part: Part) -> list[Any]:
    return [weight for weight in part.weights if weight.trainable]


def _norm(weights: list[Any]) -> float:
    squares = 0.0
    with np.errstate(all="ignore"):
        for weight in weights:
            xp, array = _home(_value(weight))
            squares += float(xp.sum(xp.square(array)))
    return _measured(np.sqrt(squares)) if weights else float("nan")


def _entries(weights: list[Any]) -> Floats:
    """Copy at most `_SAMPLED_WEIGHTS` evenly strided entries of some weights."""
    total = sum(int(np.prod(weight.shape, dtype=np.int64)) for weight in weights)
    stride = max(1, -(-total // _SAMPLED_WEIGHTS))
    pieces = []
    for weight in weights:
        xp, array = _home(_value(weight))
        pieces.append(np.array(to_array(xp.reshape(array, (-1,))[::stride]) if xp is not np else array.ravel()[::stride]))
    return np.concatenate(pieces).astype(np.float64) if pieces else np.zeros(0)


def _value(weight: Any) -> Any:
    value = weight.value
    return value.detach() if hasattr(value, "detach") else keras.ops.convert_to_tensor(value)


def _measured(value: Any) -> float:
    return float(value) if np.isfinite(value) else float("inf")


def _widened(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32)
