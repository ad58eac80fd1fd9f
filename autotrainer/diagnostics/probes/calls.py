"""Calls of a model under probe: on some of its rows, within a budget, and compared up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.probed_model import ProbedModel
from autotrainer.records.signals import Floats

__all__ = ["Calls", "Fields", "NotComparableError", "OutOfBudgetError", "largest_change", "replaced"]
__all__ += ["UnknownLayoutError", "row_wise", "take_rows"]

Fields = Mapping[str, NDArray[Any]]
"""Arrays of a call by name, as in `ProbedModel.fields`."""

_ROUNDINGS = 8
"""Rounding errors of one layer, in units of the spacing of floating-point numbers: a sum of n terms has about √n of
them (Higham & Mary, A New Approach to Probabilistic Rounding Error Analysis, 2019), here for 64 terms."""


class OutOfBudgetError(Exception):
    """The budget does not allow a call."""


class NotComparableError(Exception):
    """Outputs of two calls can't be compared: they differ in shape, or are not finite."""


class UnknownLayoutError(Exception):
    """The first axis of the inputs may be that of time rather than of rows."""


class Calls:
    """Calls a model, and accounts for it.

    Args:
        model: The model.
        afford: Takes a number of rows that are about to be passed through the model, and returns whether to do it.
    """

    def __init__(self, model: ProbedModel, afford: Callable[[int], bool]) -> None:
        self.model, self._afford = model, afford

    def __call__(self, fields: Fields, **options: Any) -> Floats:
        """Return the first output; ``options`` are those of `ProbedModel.outputs`.

        Raises:
            OutOfBudgetError: If the budget does not allow the call.
            NotComparableError: If the output has no axis, or is not finite.
        """
        output = self.all(fields, **options)[0]
        if not output.ndim or not output.size or not np.isfinite(output).all():
            raise NotComparableError
        return output

    def all(self, fields: Fields, **options: Any) -> list[Floats]:
        """Return all outputs.

        Raises:
            OutOfBudgetError: If the budget does not allow the call.
            NotComparableError: If there are none.
        """
        rows = max((len(array) for array in fields.values() if array.ndim), default=1)
        if not self._afford(rows):
            raise OutOfBudgetError
        outputs = self.model.outputs(fields, **options)
        if not outputs:
            raise NotComparableError
        return outputs

    def rounding(self, output: Floats) -> float:
        """Return the largest change of an output that may be due to rounding."""
        return float(_ROUNDINGS * self.model.epsilon * (self.model.depth + 1) * np.abs(output).max(initial=0.0))


def largest_change(a: Floats, b: Floats) -> float:
    """Return the largest difference of two outputs; 0 if they are empty.

    Raises:
        NotComparableError: If they differ in shape.
    """
    if a.shape != b.shape:
        raise NotComparableError
    return float(np.abs(a - b).max(initial=0.0))


def row_wise(fields: Fields) -> dict[str, NDArray[Any]]:
    """Return the fields that have one entry for each row; the others are masks or weights of the whole call."""
    arrays = {name: array for name, array in fields.items() if array.ndim}
    if not arrays:
        return {}
    rows = len(next(iter(arrays.values())))
    return {name: array for name, array in arrays.items() if len(array) == rows and not _is_position_mask(array)}


def take_rows(fields: Fields, rows: Any) -> dict[str, NDArray[Any]]:
    """Return some rows of the fields, by their indices; what is not row by row stays as it is."""
    return {**fields, **{name: array[rows] for name, array in row_wise(fields).items()}}


def replaced(fields: Fields, name: str, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return fields with other values of one of them, in its own type."""
    return {**fields, name: values.astype(fields[name].dtype, copy=False)}


def _is_position_mask(array: NDArray[Any]) -> bool:
    """Return whether a square matrix is a mask of positions: boolean or with -inf, and only in one triangle."""
    if array.ndim != 2 or array.shape[0] != array.shape[1] or len(array) < 2:
        return False
    excluded = array if array.dtype.kind == "b" else np.isneginf(array) if array.dtype.kind == "f" else None
    return excluded is not None and bool(np.tril(excluded, -1).any() != np.triu(excluded, 1).any())
