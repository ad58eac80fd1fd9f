"""Training and validation arrays in the arguments of a watched ``fit``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from autotrainer.records.data import ArrayData

__all__ = ["first_arrays", "fit_arguments", "validation_arrays"]


def validation_arrays(
    fit: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[ArrayData, ArrayData] | None:
    """Return the training and validation rows of a ``fit``, if both are NumPy arrays.

    Args:
        fit: The ``fit``.
        args: Its positional arguments.
        kwargs: Its keyword arguments. With ``validation_split``, Keras takes the last rows, before it shuffles.
    """
    arguments = fit_arguments(fit, args, kwargs)
    whole = _arrays(arguments.get("x"), arguments.get("y"))
    if whole is None:
        return None
    given, split = arguments.get("validation_data"), arguments.get("validation_split") or 0.0
    if given is not None:
        held_out = _arrays(*given[:2]) if isinstance(given, tuple | list) and len(given) >= 2 else None
        return None if held_out is None else (whole, held_out)
    first = math.floor(whole.rows * (1 - split))
    if not 0 < first < whole.rows:
        return None
    return whole.take(np.s_[:first]), whole.take(np.s_[first:])


def first_arrays(
    fit: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], rows: int
) -> tuple[Any, Any] | None:
    """Return the first rows of the inputs and targets of a ``fit``; None unless they are arrays or tensors.

    Args:
        fit: The ``fit``.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        rows: Maximum number of rows.
    """
    arguments = fit_arguments(fit, args, kwargs)
    inputs, targets = arguments.get("x"), arguments.get("y")
    arrays = keras.tree.flatten((inputs, targets))
    if targets is None or not all(hasattr(a, "shape") and hasattr(a, "dtype") and len(a.shape) for a in arrays):
        return None
    batch: tuple[Any, Any] = keras.tree.map_structure(lambda array: array[:rows], (inputs, targets))
    return batch


def fit_arguments(fit: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a ``fit`` by name."""
    arguments = inspect.signature(fit).bind(*args, **kwargs).arguments
    return {**arguments, **arguments.get("kwargs", {})}


def _arrays(inputs: Any, targets: Any) -> ArrayData | None:
    """Return inputs and targets if all are NumPy arrays with as many rows."""
    arrays = keras.tree.flatten(inputs)
    if not arrays or not all(isinstance(a, np.ndarray) and a.ndim for a in (*arrays, targets)):
        return None
    return ArrayData(tuple(arrays), targets) if {len(a) for a in arrays} == {len(targets)} else None
