"""Reading tensors of any engine, and copying a few of their rows.

Reductions are written once against a module ``xp``: NumPy for arrays in host memory (no copy is made), `keras.ops` for
tensors on an accelerator, so that only scalars are transferred.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.records.signals import MAX_FEATURES, MAX_RANK, MAX_ROWS, MAX_VALUES

__all__ = [
    "array_module",
    "dot",
    "feature_rows",
    "finite_or_inf",
    "input_rows",
    "read_variable",
    "row_count",
    "rows_of",
    "scalar",
    "sum_of_squares",
    "to_array",
]


_SINGLE_THREADED = 1 << 17
"""Entries of vectors whose product one thread computes."""
_MOST_DENSE = 4_000_000
"""Entries of sparse rows that may be made dense."""


def to_array(tensor: Any) -> NDArray[Any]:
    """Return a tensor of any engine as a NumPy array; 8- and 16-bit floating types become float32."""
    if isinstance(tensor, np.ndarray):
        array = tensor
    elif hasattr(tensor, "detach"):
        array = np.asarray(keras.ops.convert_to_numpy(tensor.detach()))
    elif hasattr(tensor, "numpy"):
        array = np.asarray(tensor.numpy())
    else:
        array = np.asarray(tensor)
    small = array.dtype.itemsize < 4 and array.dtype.kind not in "iub"  # NumPy does not give bfloat16 the kind f
    return array.astype(np.float32) if small else array


def scalar(value: Any) -> float:
    """Return a one-element tensor or number as a float: infinity if it is not finite."""
    return finite_or_inf(to_array(value).reshape(-1)[0])


def read_variable(variable: Any) -> Any:
    """Return the value of a Keras variable as a tensor of the engine, without copying where possible."""
    value = variable.value
    if keras.backend.backend() == "tensorflow" and hasattr(value, "handle") and value.handle is not None:
        import tensorflow as tf

        # Reading through Keras or tf.Variable takes four times as long, for each weight in each sampled step.
        return tf.raw_ops.ReadVariableOp(resource=value.handle, dtype=value.dtype)
    return value.detach() if hasattr(value, "detach") else value


def row_count(*tensors: Any) -> int:
    """Return how many leading rows may be copied from each of the tensors."""
    counts = [MAX_ROWS]
    for tensor in tensors:
        shape = tuple(getattr(tensor, "shape", ()))
        if shape:
            counts.append(min(shape[0], max(1, MAX_VALUES // max(1, math.prod(shape[1:])))))
    return min(counts)


def rows_of(tensor: Any, rows: int) -> NDArray[Any] | None:
    """Copy the first rows to host memory; None if it is not a numeric tensor with rows."""
    if not _has_numbers(tensor):
        return None
    tensor = _dense_rows(tensor)
    return np.array(to_array((to_array(tensor) if _on_host(tensor) else tensor)[:rows]))


def input_rows(tensor: Any) -> NDArray[Any] | None:
    """Copy the first rows of the inputs to host memory.

    Rank 2 keeps its rank: rows by at most 1024 evenly strided columns. A higher rank becomes (rows, 1, values) if
    its rows are too large to be copied whole.
    """
    if not _has_numbers(tensor):
        return None
    tensor = _dense_rows(tensor)
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


def feature_rows(tensor: Any) -> NDArray[Any] | None:
    """Copy evenly strided rows and features of a layer's input to host memory; time steps count as rows."""
    if not _has_numbers(tensor) or len(tensor.shape) < 2:
        return None
    tensor = _dense_rows(tensor)
    features = to_array(tensor) if _on_host(tensor) else tensor
    xp = np if isinstance(features, np.ndarray) else keras.ops
    flat = xp.reshape(features, (-1, features.shape[-1]))
    rows, columns = (math.ceil(size / MAX_RANK) for size in flat.shape)
    return np.array(to_array(flat[::rows, ::columns]), np.float32)


def _dense_rows(tensor: Any) -> Any:
    """Return the first rows of a sparse tensor, dense; any other tensor unchanged."""
    sparse = hasattr(tensor, "dense_shape"), hasattr(tensor, "todense")  # of TensorFlow, of JAX
    if not any(sparse):
        return tensor
    shape = tuple(tensor.shape)
    rows = min(shape[0], MAX_ROWS, max(1, _MOST_DENSE // max(1, math.prod(shape[1:]))))
    if sparse[1]:
        return tensor[:rows].todense()
    import tensorflow as tf

    return tf.sparse.to_dense(tf.sparse.reorder(tf.sparse.slice(tensor, [0] * len(shape), [rows, *shape[1:]])))


def _has_numbers(tensor: Any) -> bool:
    kind = str(getattr(tensor, "dtype", "string"))
    return bool(math.prod(getattr(tensor, "shape", ()) or (0,))) and "string" not in kind and "complex" not in kind


def _on_host(tensor: Any) -> bool:
    return isinstance(tensor, np.ndarray) or "cpu" in str(getattr(tensor, "device", "cpu")).lower()


def array_module(tensor: Any) -> tuple[Any, Any]:
    """Return the module that reduces a tensor (NumPy or `keras.ops`) and the tensor for it, in 32 bits or more."""
    if _on_host(tensor):
        array = to_array(tensor)
        return np, array if array.dtype.kind == "f" else array.astype(np.float32)
    return keras.ops, keras.ops.cast(tensor, "float32")


def sum_of_squares(xp: Any, values: Any) -> float:
    """Return the sum of the squares of all entries; ``xp`` is their `array_module`."""
    if xp is np:
        flat = values.reshape(-1)
        return dot(flat, flat)
    return float(xp.sum(xp.square(values)))


def dot(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the scalar product of two vectors in host memory.

    OpenBLAS shares products of more than 10,000 entries among threads and actively waits for them: on a busy machine,
    100 times as long as the product takes.
    """
    return float(np.einsum("i,i", a, b) if a.size <= _SINGLE_THREADED else np.vdot(a, b))


def finite_or_inf(value: Any) -> float:
    """Return a number as a float, infinity for anything that is not finite."""
    number = float(value)
    return number if math.isfinite(number) else math.inf
