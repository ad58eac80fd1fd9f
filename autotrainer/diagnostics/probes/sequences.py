"""The sequences among the inputs of a model: its tokens, which of them are padding, and its outputs by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.probed_model import ProbedModel
from autotrainer.diagnostics.probes.calls import Fields, row_wise
from autotrainer.records.signals import Floats
from autotrainer.records.task import MASKED

__all__ = [
    "Padding",
    "by_position",
    "class_indices",
    "cut",
    "find_padding",
    "is_tokens",
    "next_token_field",
    "sequence_field",
]

_SHORTEST = 4
"""Positions of the shortest sequence that is probed."""
_MATCH = 0.99
"""Share of targets that are the next token; the first tokens of a vocabulary may be left out."""
_FEW = 8
"""Number of targets that have to match."""


@dataclass(frozen=True, slots=True)
class Padding:
    """Padding at the end of sequences.

    Attributes:
        token: The token that is padding.
        lengths: Number of tokens of each row before its padding, shape (rows,).
        mask: Name of the field that says which tokens are padding, or None.
        declared: Whether an embedding layer declares the token as padding.
    """

    token: int
    lengths: NDArray[np.int64]
    mask: str | None
    declared: bool


def is_tokens(array: NDArray[Any], *, embeds: bool) -> bool:
    """Return whether an array holds sequences of token ids: whole numbers from 0 on, more than two of them.

    Args:
        array: Shape (rows, positions).
        embeds: Whether the model has an embedding layer, so that whole numbers of a floating-point type are ids too.
    """
    if array.ndim != 2 or array.shape[1] < _SHORTEST or not (array.dtype.kind in "iu" or embeds):
        return False
    values = array.astype(np.float64)
    whole = bool(np.isfinite(values).all()) and bool((values == np.floor(values)).all()) and values.min() >= 0
    return whole and len(np.unique(values)) > 2


def sequence_field(model: ProbedModel) -> str | None:
    """Return the name of the field that holds the sequences: of token ids, else of vectors; None if there is none."""
    arrays = row_wise(model.fields)
    tokens = [n for n, a in arrays.items() if model.embeds and is_tokens(a, embeds=True) and not _is_targets(model, a)]
    if tokens:
        return max(tokens, key=lambda name: len(np.unique(arrays[name])))
    vectors = [n for n, a in arrays.items() if a.ndim == 3 and a.dtype.kind == "f" and a.shape[1] >= _SHORTEST]
    return vectors[0] if len(vectors) == 1 else None


def _is_targets(model: ProbedModel, array: NDArray[Any]) -> bool:
    targets = model.targets
    return targets is not None and targets is not array and _has_masked(array) and np.array_equal(array, targets)


def _has_masked(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "if" and bool((array == MASKED).any())


def class_indices(targets: NDArray[Any], positions: int, rows: int) -> NDArray[Any] | None:
    """Return targets as one value for each row and position, shape (rows, positions); None if they are none.

    One-hot targets become indices; flattened ones get their two axes back. Targets for all positions but the last one
    are masked there.
    """
    if targets.ndim == 3 and targets.shape[:2] == (rows, positions):
        if targets.shape[2] == 1:
            return targets[:, :, 0]
        one_hot = targets.dtype.kind in "iubf" and bool(
            (targets.sum(axis=2) == 1).all() and (targets.max(axis=2) == 1).all()
        )
        return targets.argmax(axis=2) if one_hot else None
    if targets.ndim == 2 and targets.shape == (rows, positions):
        return targets
    if targets.ndim == 2 and targets.shape == (rows, positions - 1) and targets.dtype.kind == "i":
        return np.pad(targets, ((0, 0), (0, 1)), constant_values=MASKED)
    if targets.ndim == 1 and rows > 1 and targets.size == rows * positions:
        return targets.reshape(rows, positions)
    return None


def next_token_field(model: ProbedModel) -> str | None:
    """Return the name of the field whose next entries are the targets; None if there is none.

    The targets at each position are compared with the inputs at the next one, where they count: -100 is masked, and
    padding too. Inputs that are the targets at the same position, as constant sequences are, prove nothing.
    """
    targets = model.targets
    if targets is None:
        return None
    for name, array in row_wise(model.fields).items():
        vectors = array.ndim == 3 and array.dtype.kind == "f" and array.shape == targets.shape
        if vectors and array.shape[1] >= _SHORTEST and _shifted(array, targets):
            return name
        if array.ndim != 2 or array.shape[1] < _SHORTEST:
            continue
        indices = class_indices(targets, array.shape[1], len(array))
        if indices is not None and _shifted(array[:, :, None], indices[:, :, None]):
            return name
    return None


def _shifted(inputs: NDArray[Any], targets: NDArray[Any]) -> bool:
    """Return whether targets are the inputs of the next position; shapes (rows, positions, values)."""
    counts = (targets[:, :-1] != MASKED).all(axis=2)
    changes = (inputs[:, 1:] != inputs[:, :-1]).any(axis=2)
    if (counts & changes).sum() < _FEW:
        return False
    following = np.isclose(inputs[:, 1:], targets[:, :-1]).all(axis=2)
    return bool(following[counts].mean() >= _MATCH) and bool(following[counts & changes].mean() >= _MATCH)


def find_padding(model: ProbedModel, name: str) -> Padding | None:
    """Return what is known of padding at the end of sequences of tokens; None if no row has any.

    A token is padding if a mask among the inputs changes where a run of it begins, or an embedding layer declares it;
    else if at least two rows, and a tenth of them, end in runs of this token, at least two tokens long, and it stands
    nowhere else.
    """
    tokens = model.fields[name]
    if not is_tokens(tokens, embeds=True):
        return None
    last = tokens[:, -1]
    candidates, counts = np.unique(last, return_counts=True)
    for token in candidates[np.argsort(-counts)]:
        lengths = _lengths(tokens, token)
        ends = lengths < tokens.shape[1]
        if not ends.any():
            continue
        mask = next((n for n, a in row_wise(model.fields).items() if n != name and _marks(a, lengths)), None)
        declared = int(token) in model.padding
        long = (lengths <= tokens.shape[1] - 2) & (lengths > 0)
        elsewhere = any((row[:length] == token).any() for row, length in zip(tokens, lengths, strict=True))
        usual = long.sum() >= max(2, len(tokens) / 10) and not elsewhere and len(np.unique(lengths)) > 1
        if mask is not None or (declared and long.any()) or usual:
            return Padding(int(token), lengths, mask, declared)
    return None


def _lengths(tokens: NDArray[Any], token: Any) -> NDArray[np.int64]:
    other = tokens[:, ::-1] != token
    return np.where(other.any(axis=1), tokens.shape[1] - other.argmax(axis=1), 0).astype(np.int64)


def _marks(array: NDArray[Any], lengths: NDArray[np.int64]) -> bool:
    """Return whether a field of two values changes exactly where padding begins, in all rows."""
    if array.ndim != 2 or array.dtype.kind not in "iubf" or len(array) != len(lengths):
        return False
    values = np.unique(array)
    before = np.arange(array.shape[1]) < lengths[:, None]
    if len(values) != 2 or before.all():
        return False
    return any(bool(((array == value) == before).all()) for value in values)


def by_position(output: Floats, rows: int, positions: int, *, values_last: bool = False) -> Floats | None:
    """Return an output with axes (rows, positions, values); None if it has no axis of positions, or it is ambiguous.

    Shapes (rows, positions, …), (rows, values, positions), (positions, rows, …) and (rows · positions, …) are known.
    With ``values_last`` (`ProbedModel.values_last`), the second one is not expected.
    """
    if output.ndim >= 2 and output.shape[:2] == (rows, positions):
        if output.ndim > 2 and positions in output.shape[2:] and not (values_last and output.ndim == 3):
            return None
        return output.reshape(rows, positions, -1)
    if output.ndim == 3 and output.shape[0] == rows and output.shape[2] == positions:
        return np.moveaxis(output, 2, 1)
    if output.ndim >= 3 and output.shape[:2] == (positions, rows):
        return np.swapaxes(output, 0, 1).reshape(rows, positions, -1)
    if output.ndim == 2 and rows > 1 and len(output) == rows * positions:
        return output.reshape(rows, positions, -1)
    return None


def cut(fields: Fields, positions: int, length: int) -> dict[str, NDArray[Any]]:
    """Return fields with shorter sequences: every axis but that of the rows that has so many positions is cut."""
    rows = row_wise(fields)

    def shortened(name: str, array: NDArray[Any]) -> NDArray[Any]:
        first = 1 if name in rows else 0
        part = tuple(
            slice(0, length)
            if axis >= first and size == positions and _is_time(array, axis, name in rows)
            else slice(None)
            for axis, size in enumerate(array.shape)
        )
        return array[part]

    return {name: shortened(name, array) for name, array in fields.items()}


def _is_time(array: NDArray[Any], axis: int, row_wise: bool) -> bool:
    """Return whether an axis of this size is one of positions: the second one of rows, or any of a mask."""
    return axis == 1 if row_wise else array.ndim <= 4
