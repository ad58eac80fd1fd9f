"""Reductions of weights, gradients and activations to the numbers of the layer table.

Written once for two homes of an array: in host memory NumPy reduces it (without copying it there first), on an
accelerator the same calls of `keras.ops` do, and only scalars travel.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.parts import Part
from autotrainer.signals import DEAD_WINDOW, LAYER_COLUMNS, MAX_FEATURES, MAX_ROWS, MAX_VALUES, Floats

__all__ = ["LayerMeter", "input_rows", "read_variable", "row_count", "rows_of", "scalar", "to_array"]

_OUTPUT_COLUMNS = frozenset(name for name in LAYER_COLUMNS if name.startswith("activation_")) | {
    "dead_units",
    "saturated",
}
"""All columns that are measured on the outputs of layers."""
_SAMPLED_WEIGHTS = 4096
_ZERO_REGION = frozenset({"relu", "relu6", "clipped_relu", "thresholded_relu"})
"""Activations that are exactly zero for all inputs below some point."""
_FLAT = 1e-3
"""Share of an activation's largest slope below which an entry counts as saturated."""


def to_array(tensor: Any) -> NDArray[Any]:
    """Return a tensor of any engine as a NumPy array; 8- and 16-bit floating types come as float32."""
    if isinstance(tensor, np.ndarray):
        array = tensor
    elif hasattr(tensor, "detach"):
        array = np.asarray(keras.ops.convert_to_numpy(tensor.detach()))
    elif hasattr(tensor, "numpy"):
        array = np.asarray(tensor.numpy())
    else:
        array = np.asarray(tensor)
    small = array.dtype.itemsize < 4 and array.dtype.kind not in "iub"  # bfloat16 is no NumPy type of kind f
    return array.astype(np.float32) if small else array


def scalar(value: Any) -> float:
    """Return a one-element tensor or number as a float: infinity if it is not finite."""
    return _measured(to_array(value).reshape(-1)[0])


def read_variable(variable: Any) -> Any:
    """Return the value of a Keras variable as a tensor of the engine, without a copy where that is possible."""
    value = variable.value
    if keras.backend.backend() == "tensorflow" and hasattr(value, "handle") and value.handle is not None:
        import tensorflow as tf

        # Reading through Keras or tf.Variable takes four times as long, once a weight and sample.
        return tf.raw_ops.ReadVariableOp(resource=value.handle, dtype=value.dtype)
    return value.detach() if hasattr(value, "detach") else value


def row_count(*tensors: Any) -> int:
    """Return how many first rows of all the tensors together may be copied."""
    counts = [MAX_ROWS]
    for tensor in tensors:
        shape = tuple(getattr(tensor, "shape", ()))
        if shape:
            counts.append(min(shape[0], max(1, MAX_VALUES // max(1, math.prod(shape[1:])))))
    return min(counts)


def rows_of(tensor: Any, rows: int) -> NDArray[Any] | None:
    """Copy the first rows to host memory; None for what is not a numeric tensor with rows."""
    if not _has_numbers(tensor):
        return None
    return np.array(to_array((to_array(tensor) if _on_host(tensor) else tensor)[:rows]))


def input_rows(tensor: Any) -> NDArray[Any] | None:
    """Copy the first rows of the inputs to host memory.

    Rank 2 keeps its rank: rows by at most 1024 evenly strided columns. A higher rank becomes (rows, 1, values) where
    its rows are too large to be copied whole.
    """
    if not _has_numbers(tensor):
        return None
    rows = (to_array(tensor) if _on_host(tensor) else tensor)[:MAX_ROWS]
    if len(rows.shape) == 2 and rows.shape[1] > MAX_FEATURES:
        rows = rows[:, :: math.ceil(rows.shape[1] / MAX_FEATURES)]
    width = math.prod(rows.shape[1:])
    if len(rows.shape) > 2 and len(rows) * width > MAX_VALUES:
        few = rows[: max(1, MAX_VALUES // min(width, 4 * MAX_FEATURES))]
        xp = np if isinstance(few, np.ndarray) else keras.ops
        flat = xp.reshape(few, (few.shape[0], width))
        rows = flat[:, :: math.ceil(width / (MAX_VALUES // flat.shape[0]))][:, None]
    return np.array(to_array(rows[: max(1, MAX_VALUES // max(1, math.prod(rows.shape[1:])))]))


class LayerMeter:
    """Fills the layer table of one sampled step after the other.

    Args:
        parts: The layers: rows of the table.
        needs: Columns that are worth measuring, None for all; those of activations are left out together.
    """

    def __init__(self, parts: Sequence[Part], needs: frozenset[str] | None = None) -> None:
        self.parts = tuple(parts)
        self._measured = needs is None or not needs.isdisjoint(_OUTPUT_COLUMNS)
        self._zero: list[deque[NDArray[np.bool_]]] = [deque(maxlen=DEAD_WINDOW) for _ in parts]
        self._before: list[tuple[float, Floats] | None] = []

    def before_step(self) -> None:
        """Remember norm and sampled entries of all trainable weights."""
        with np.errstate(all="ignore"):
            self._before = [_norm_and_entries(_trainable(part)) for part in self.parts]

    def table(self, seen: Mapping[str, Any], *, scale: float = 1.0, updated: bool = True) -> Floats:
        """Return the layer table of the step that has just been taken.

        Args:
            seen: What `instrument.Recorder` recorded: ``activation:<row>`` and ``gradient:<row>:<weight>``.
            scale: Factor by which the loss was scaled, and so the gradients are.
            updated: Whether the optimizer changed weights in this step (not when it only accumulates).

        Returns:
            Shape (layers, len(LAYER_COLUMNS)).
        """
        table = np.full((len(self.parts), len(LAYER_COLUMNS)), np.nan)
        before = self._before or [None] * len(self.parts)
        self._before = []
        with np.errstate(all="ignore"):
            for row, part in enumerate(self.parts):
                values: dict[str, float] = {}
                old = before[row]
                if old is not None:
                    values |= _weight_values(old, _norm_and_entries(_trainable(part)) if updated else None)
                values |= _gradient_values(row, part, seen, scale)
                output = seen.get(f"activation:{row}")
                if self._measured and output is not None and math.prod(output.shape):
                    values |= self._activation_values(row, part, output)
                table[row] = [values.get(column, np.nan) for column in LAYER_COLUMNS]
        return table

    def _activation_values(self, row: int, part: Part, output: Any) -> dict[str, float]:
        xp, values = _home(output)
        if len(values.shape) < 2:
            values = xp.reshape(values, (-1, 1))
        magnitude = xp.abs(values)
        means = xp.mean(values, axis=0)
        variance = _sum_of_squares(xp, values - means) / math.prod(values.shape)  # over samples; mean over units
        largest = xp.max(magnitude, axis=_all_but_units(part, len(values.shape)))
        units = to_array(largest)
        numbers = {
            "activation_mean_abs": _measured(xp.mean(magnitude)),
            "activation_std": _measured(math.sqrt(variance + float(xp.var(means)))),
            "activation_max_abs": _measured(np.max(units)),
            "saturated": _saturated(xp, values, magnitude, part.activation),
        }
        if values.shape[0] > 1:
            numbers["activation_spread"] = _measured(math.sqrt(variance))
        if part.activation in _ZERO_REGION:
            numbers["dead_units"] = self._dead_units(row, units == 0)
        return numbers

    def _dead_units(self, row: int, zero: NDArray[np.bool_]) -> float:
        """Return the share of units that were zero in each of the last batches; NaN while there are too few."""
        window = self._zero[row]
        if window and window[-1].shape != zero.shape:
            window.clear()
        window.append(zero)
        return float(np.logical_and.reduce(list(window)).mean()) if len(window) == DEAD_WINDOW else math.nan


def _all_but_units(part: Part, rank: int) -> tuple[int, ...]:
    first = getattr(part.layer, "data_format", None) == "channels_first" and rank > 2
    units = 1 if first else rank - 1
    return tuple(axis for axis in range(rank) if axis != units)


def _weight_values(old: tuple[float, Floats], new: tuple[float, Floats] | None) -> dict[str, float]:
    norm, entries = old
    values = {"weight_norm": _measured(norm)}
    length = float(np.linalg.norm(entries))
    if new is not None and length:
        values["update_ratio"] = _measured(float(np.linalg.norm(new[1] - entries)) / length)
    return values


def _gradient_values(row: int, part: Part, seen: Mapping[str, Any], scale: float) -> dict[str, float]:
    squares, zeros, size = 0.0, 0, 0
    for place, weight in enumerate(part.weights):
        gradient = _gradient(seen, f"gradient:{row}:{place}")
        if gradient is None or not weight.trainable:
            continue
        xp, array = _home(gradient)
        squares += _sum_of_squares(xp, array)
        size += math.prod(weight.shape)
        zeros += math.prod(weight.shape) - int(xp.count_nonzero(array))
    if not size:
        return {}
    return {"grad_norm": _measured(math.sqrt(squares) / scale), "grad_zero_fraction": zeros / size}


def _gradient(seen: Mapping[str, Any], key: str) -> Any:
    """Return a gradient (of a sparse one the rows touched, summed where they repeat), or None."""
    if key in seen or f"{key}:values" not in seen:
        return seen.get(key)
    values, indices = to_array(seen[f"{key}:values"]), to_array(seen[f"{key}:indices"])
    rows, places = np.unique(indices, return_inverse=True)
    summed = np.zeros((len(rows), *values.shape[1:]), values.dtype)
    np.add.at(summed, places.reshape(-1), values)
    return summed


def _saturated(xp: Any, values: Any, magnitude: Any, activation: str | None) -> float:
    """Return the share of outputs where the slope of a bounded activation is < 1e-3 of its maximum."""
    if activation == "sigmoid":
        flat = 4.0 * values * (1.0 - values) < _FLAT
    elif activation == "tanh":
        flat = xp.square(values) > 1.0 - _FLAT
    elif activation == "softsign":
        flat = magnitude > 1.0 - math.sqrt(_FLAT)  # its slope is (1 - |output|) ** 2
    elif activation == "hard_sigmoid":
        flat = xp.abs(values - 0.5) >= 0.5
    elif activation == "hard_tanh":
        flat = magnitude >= 1.0
    else:
        return math.nan
    return float(int(xp.count_nonzero(flat)) / math.prod(values.shape))


def _has_numbers(tensor: Any) -> bool:
    kind = str(getattr(tensor, "dtype", "string"))
    return bool(math.prod(getattr(tensor, "shape", ()) or (0,))) and "string" not in kind and "complex" not in kind


def _on_host(tensor: Any) -> bool:
    return isinstance(tensor, np.ndarray) or "cpu" in str(getattr(tensor, "device", "cpu")).lower()


def _home(tensor: Any) -> tuple[Any, Any]:
    """Return the module that is to reduce a tensor, and the tensor as that module takes it, in 32 bits or more."""
    if _on_host(tensor):
        array = to_array(tensor)
        return np, array if array.dtype.kind == "f" else array.astype(np.float32)
    return keras.ops, keras.ops.cast(tensor, "float32")


def _sum_of_squares(xp: Any, values: Any) -> float:
    if xp is np:
        flat = values.reshape(-1)
        return float(np.vdot(flat, flat))
    return float(xp.sum(xp.square(values)))


def _trainable(part: Part) -> list[Any]:
    return [weight for weight in part.weights if weight.trainable]


def _norm_and_entries(weights: list[Any]) -> tuple[float, Floats] | None:
    """Return the L2 norm of some weights and a copy of at most 4096 evenly strided entries; None without weights."""
    if not weights:
        return None
    total = sum(math.prod(weight.shape) for weight in weights)
    squares, pieces = 0.0, []
    for weight in weights:
        xp, array = _home(read_variable(weight))
        squares += _sum_of_squares(xp, array)
        size = math.prod(weight.shape)
        stride = math.ceil(size / max(1, math.ceil(size * min(1.0, _SAMPLED_WEIGHTS / max(total, 1))))) or 1
        pieces.append(np.array(to_array(xp.reshape(array, (-1,))[::stride]), np.float64))
    return math.sqrt(squares) if squares >= 0 else math.inf, np.concatenate(pieces)


def _measured(value: Any) -> float:
    number = float(value)
    return number if math.isfinite(number) else math.inf
