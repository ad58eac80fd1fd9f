"""The user's data in one of two forms: arrays in memory, or a stream that only its framework reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.errors import DataError

__all__ = [
    "ArrayData",
    "Data",
    "StreamData",
    "arrays_of",
    "as_array",
    "as_stream",
    "check_weights",
    "concatenate_batches",
    "finite_rows",
    "map_arrays",
    "normalize",
]

_NUMERIC = "biufcV"
"""Kinds of NumPy types that inputs and targets may have; V holds the narrow floating types of ml_dtypes."""


@dataclass(frozen=True, slots=True)
class ArrayData:
    """Inputs and targets in memory.

    Attributes:
        inputs: An array, or a tuple or dict of arrays, each of shape (rows, ...).
        targets: Shape (rows, ...).
        weights: Sample weights, shape (rows,), or that of the targets' first axes for a weight at each step; or None.
    """

    inputs: Any
    targets: NDArray[Any]
    weights: NDArray[Any] | None = None

    @property
    def rows(self) -> int:
        """Number of samples."""
        return len(self.targets)

    def take(self, rows: NDArray[np.int64] | slice) -> ArrayData:
        """Return the selected rows, in the order of the indices; a view of them for a slice."""
        weights = None if self.weights is None else self.weights[rows]
        return ArrayData(map_arrays(lambda a: a[rows], self.inputs), self.targets[rows], weights)


@dataclass(frozen=True, slots=True)
class StreamData:
    """A loader or data set of a framework, which only its backend reads. It must be re-iterable.

    Attributes:
        source: The loader or data set.
        name: Name of the argument, for messages.
    """

    source: Any
    name: str = "the data"


Data = ArrayData | StreamData


def as_array(values: Any, name: str = "the data") -> NDArray[Any]:
    """Convert an array, a tensor of any framework, a list or a pandas column to a NumPy array.

    Args:
        values: The values.
        name: Name of the argument, for messages.

    Raises:
        DataError: If that is not possible.
    """
    try:
        if hasattr(values, "detach"):  # a torch tensor, on any device
            values = values.detach().cpu()
        if hasattr(values, "numpy") and callable(values.numpy):
            values = values.numpy()
        array = np.asarray(values)
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    # rows of different lengths, a list of batches, or a sparse, symbolic or empty tensor
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise DataError(f"a {type(values).__name__} in {name} is not a numeric array: {error}") from error


def _row_by_row(values: Any, name: str) -> NDArray[Any]:
    """Return values as an array in row order: sums over other layouts, which no copy keeps, differ in the last digits.

    Raises:
        DataError: If that is not possible.
    """
    return np.asarray(as_array(values, name), order="C")


def map_arrays(function: Callable[[NDArray[Any]], NDArray[Any]], inputs: Any) -> Any:
    """Apply a function to an array, or to each array of a tuple or dict."""
    if isinstance(inputs, Mapping):
        return {name: function(array) for name, array in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(function(array) for array in inputs)
    return function(inputs)


def arrays_of(inputs: Any) -> list[NDArray[Any]]:
    """Return the arrays of inputs as a list; those of a dict sorted by name."""
    if isinstance(inputs, Mapping):
        return [inputs[name] for name in sorted(inputs)]
    return list(inputs) if isinstance(inputs, tuple) else [inputs]


def finite_rows(data: ArrayData) -> NDArray[np.int64]:
    """Return the indices of the rows whose inputs and targets are all finite."""
    finite = np.ones(data.rows, bool)
    for array in (*arrays_of(data.inputs), data.targets):
        if array.dtype.kind in "fc":
            finite &= np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        elif array.dtype.kind == "V":  # narrow floating types, which np.isfinite does not take
            finite &= np.isfinite(array.astype(np.float32)).all(axis=tuple(range(1, array.ndim)))
    return np.flatnonzero(finite)


def normalize(data: Any, name: str) -> Data:
    """Convert data to one of the two forms, and check them.

    Args:
        data: ``(x, y)`` or ``(x, y, sample_weight)`` of arrays or tensors, where x may also be a tuple, list or dict
            of them; or a loader or data set.
        name: Name of the argument, for messages.

    Returns:
        `ArrayData` or `StreamData`.

    Raises:
        DataError: If it is neither, the numbers of rows differ, or targets are several arrays.
    """
    if isinstance(data, ArrayData | StreamData):
        return data
    if isinstance(data, tuple | list):
        if len(data) not in (2, 3):
            raise DataError(f"{name} must be (x, y) or (x, y, sample_weight), not {len(data)} items")
        inputs = data[0]
        inputs = tuple(inputs) if isinstance(inputs, list) and _holds_arrays(inputs) else inputs
        inputs = map_arrays(lambda values: _row_by_row(values, name), inputs)
        _refuse_several(data[1], inputs, name)
        targets = _row_by_row(data[1], name)
        weights = _row_by_row(data[2], name) if len(data) == 3 and data[2] is not None else None
        return _checked(ArrayData(inputs, targets, weights), name)
    if hasattr(data, "dtype") or hasattr(data, "__array__"):
        raise DataError(f"{name} must be (x, y), a loader or a data set, not {_kind(data)}")
    return as_stream(data, name, "(x, y), a loader or a data set")


def as_stream(data: Any, name: str, accepted: str) -> StreamData:
    """Return a loader, data set or other collection of batches, unless it can be seen that it is none.

    Args:
        data: The user's argument.
        name: Its name, for messages.
        accepted: What is accepted, for messages.

    Raises:
        DataError: If it can't be read, can be read only once, is known to be empty, or is a text, mapping or set.
    """
    readable = (hasattr(data, "__iter__") or hasattr(data, "__getitem__")) and not isinstance(data, np.generic)
    if isinstance(data, type | str | bytes | Mapping | Set) or not readable:
        raise DataError(f"{name} must be {accepted}, not {_kind(data)}")
    if hasattr(data, "__next__"):
        raise DataError(f"{name} is an iterator, which can be read only once; pass the loader or data set itself")
    try:
        empty = len(data) == 0
    except (TypeError, NotImplementedError):  # no length, or not before it is read
        empty = False
    if empty:
        raise DataError(f"{name} is empty: the {type(data).__name__} holds no batch, its length is 0")
    return StreamData(data, name)


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def concatenate_batches(inputs: Sequence[Any], targets: Sequence[NDArray[Any]], rows: int) -> ArrayData | None:
    """Concatenate batches and keep the first rows.

    Args:
        inputs: Inputs of each batch: an array, or a list, tuple or dict of arrays.
        targets: Targets of each batch.
        rows: Maximum number of rows.

    Returns:
        The rows; None if there are none, or if the batches differ in form.
    """
    inputs = [tuple(batch) if isinstance(batch, list) else batch for batch in inputs]
    flat = [arrays_of(batch) for batch in inputs]
    if not flat or not all(isinstance(part, np.ndarray) and part.ndim for parts in flat for part in parts):
        return None
    shapes = {tuple(a.shape[1:] for a in (*arrays, y)) for arrays, y in zip(flat, targets, strict=True)}
    if len(shapes) > 1:
        return None
    joined = [np.concatenate(parts)[:rows] for parts in zip(*flat, strict=True)]
    first = inputs[0]
    if isinstance(first, Mapping):
        rebuilt: Any = dict(zip(sorted(first), joined, strict=True))
    else:
        rebuilt = tuple(joined) if isinstance(first, tuple) else joined[0]
    return ArrayData(rebuilt, np.concatenate(targets)[:rows])


def _holds_arrays(values: Sequence[Any]) -> bool:
    return bool(values) and all(hasattr(v, "shape") and len(v.shape) > 0 for v in values)


def _refuse_several(targets: Any, inputs: Any, name: str) -> None:
    """Refuse targets that are several arrays, such as one for each output of the model.

    Raises:
        DataError: If they are a dict, or a list or tuple of arrays that are not one for each row.
    """
    if isinstance(targets, Mapping):
        arrays = f"a dict of arrays ({', '.join(repr(key) for key in targets)})"
    elif isinstance(targets, list | tuple) and _holds_arrays(targets) and len(targets) != len(arrays_of(inputs)[0]):
        arrays = f"a {type(targets).__name__} of {len(targets)} arrays"
    else:
        return
    raise DataError(
        f"{name}: the targets are {arrays}, but (x, y) takes a single array as y. For a model with several outputs, "
        "pass a loader or data set whose batches hold the inputs and all targets (DataLoader, tf.data.Dataset, "
        "PyDataset); fit then takes validation_data of the same kind"
    )


def check_weights(weights: NDArray[Any], targets: NDArray[Any], name: str) -> None:
    """Check the weights of rows or of their steps.

    Args:
        weights: The weights.
        targets: The targets that they weigh; the numbers of rows are compared elsewhere.
        name: Name of the argument, for messages.

    Raises:
        DataError: If they are not finite numbers >= 0, one a row or a step, or all of them are 0.
    """
    fits = weights.ndim > 0 and weights.shape[1:] == targets.shape[1 : weights.ndim]
    numbers = fits and weights.dtype.kind in "biuf"
    if not numbers or not (weights >= 0).all() or not np.isfinite(weights).all() or not weights.any():
        steps = f" or {('rows', *targets.shape[1:])}".replace("'", "") if targets.ndim > 1 else ""
        raise DataError(
            f"{name}: the sample weights must be finite numbers >= 0, not all 0, of shape (rows,){steps}, not "
            f"{weights.dtype} of shape {weights.shape}"
        )


def _is_numeric(array: NDArray[Any]) -> bool:
    return array.ndim > 0 and array.dtype.kind in _NUMERIC and not issubclass(array.dtype.type, np.void)


def _checked(data: ArrayData, name: str) -> ArrayData:
    if not _is_numeric(data.targets):
        raise DataError(
            f"{name}: the targets must be a numeric array of shape (rows, ...), not {data.targets.dtype} of shape "
            f"{data.targets.shape}"
        )
    sizes: list[int] = []

    def size(array: NDArray[Any]) -> NDArray[Any]:
        if not _is_numeric(array):
            raise DataError(f"{name}: the inputs must be numeric arrays of shape (rows, ...), not {array.dtype}")
        sizes.append(len(array))
        return array

    map_arrays(size, data.inputs)
    if not sizes:
        raise DataError(f"{name}: the inputs hold no array")
    weights = data.weights
    if weights is not None:
        check_weights(weights, data.targets, name)
        sizes.append(len(weights))
    if not data.rows or any(s != data.rows for s in sizes):
        raise DataError(f"{name}: the numbers of rows differ: inputs and weights have {sizes}, targets {data.rows}")
    return data
