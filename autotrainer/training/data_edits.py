"""What edits of data and targets need to know, whatever the framework: numbers fitted on the data, and refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from autotrainer.edits import (
    Edit,
    EncodeTargets,
    LeadPadding,
    NumberClasses,
    ReshapeTargets,
    ScaleInputs,
    ScaleTargets,
    SetLoss,
)
from autotrainer.errors import ConfigError
from autotrainer.records.task import MASKED, LossInfo

__all__ = [
    "FittedEdits",
    "Moments",
    "bad_row_count",
    "check_fitted",
    "class_counts",
    "class_labels",
    "class_weights",
    "conversions",
    "last",
    "numbering_refusal",
    "row_classes",
    "row_weights",
    "scaling_refusal",
    "trailing_token",
    "width_refusal",
]

_PADDED_ROWS = 0.2
"""Share of the sequences that end in the same token repeated, from which it is padding."""

_COMPARE_BY_DIFFERENCE = ("squared_error", "absolute_error", "huber", "custom")
"""Families of losses that compare output and target by their difference, as far as is known."""
_COMPARE_BY_RATIO = ("mean_absolute_percentage_error", "mean_squared_logarithmic_error")
"""Losses of those families that do not."""
_MIN_GOOD_SHARE = 0.5
"""Share of the training rows that must be left without the bad ones: with less, most rows lack something, and it is for
the user to say what."""
_ROUNDING = 2.0**-24
"""Largest relative rounding error of single precision: a standard deviation below that of the mean scales nothing but
the error."""

E = TypeVar("E", bound=Edit)


def last(edits: Sequence[Edit], kind: type[E]) -> E | None:
    """Return the last edit of a kind, or None."""
    return next((edit for edit in reversed(edits) if isinstance(edit, kind)), None)


def conversions(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """Return the edits that convert targets for the loss, in the order in which they act: encode, reshape, standardize.

    A loss that `SetLoss` names takes targets of any form by itself.
    """
    all_edits = list(edits)
    kinds: tuple[type[Edit], ...] = (EncodeTargets, ReshapeTargets, ScaleTargets)
    kinds = kinds[2:] if any(isinstance(edit, SetLoss) for edit in all_edits) else kinds
    return tuple(edit for kind in kinds for edit in all_edits if isinstance(edit, kind))


def trailing_token(batches: Iterable[NDArray[Any]]) -> int:
    """Return the token that pads sequences at their end: the one that most of the repeated last tokens are.

    Args:
        batches: Tokens, each of shape (rows, positions).

    Raises:
        ConfigError: If too few sequences end in the same token twice.
    """
    ends: Counter[int] = Counter()
    rows = 0
    for tokens in batches:
        rows += len(tokens)
        repeated = tokens[:, -1] == tokens[:, -2] if tokens.shape[1] > 1 else np.zeros(len(tokens), bool)
        ends.update(tokens[repeated, -1].tolist())
    token, count = max(ends.items(), key=lambda item: item[1], default=(-1, 0))
    if token < 0 or count < max(1.0, _PADDED_ROWS * rows):
        raise ConfigError("too few sequences end in the same token repeated: no padding at the end is known")
    return int(token)


class FittedEdits:
    """Edits with the numbers that are fitted on the training data, each fitted once.

    Args:
        fit: Returns an edit with its numbers; raises a `ConfigError` where the data don't allow it.
    """

    def __init__(self, fit: Callable[[Edit], Edit]) -> None:
        self._fit = fit
        self._results: dict[Edit, Edit | ConfigError] = {}

    def __call__(self, edit: Edit) -> Edit:
        """Return the fitted edit.

        Raises:
            ConfigError: If the data don't allow it.
        """
        if edit not in self._results:
            try:
                self._results[edit] = self._fit(edit)
            except ConfigError as error:
                self._results[edit] = error
        result = self._results[edit]
        if isinstance(result, ConfigError):
            raise result
        return result


def check_fitted(edit: Edit) -> None:
    """Raise a `ConfigError` if an edit lacks the numbers that are fitted on the training data."""
    scaling = isinstance(edit, ScaleInputs | ScaleTargets) and not edit.mean
    unknown = isinstance(edit, LeadPadding) and edit.token is None
    if scaling or unknown or (isinstance(edit, NumberClasses) and not edit.labels):
        raise ConfigError(f"{type(edit).__name__} has no fitted numbers: use the plan of a result, which has them")


class Moments:
    """Mean and population standard deviation of columns, over batches; values that are not finite are left out."""

    def __init__(self) -> None:
        self._count: NDArray[np.float64] = np.zeros(1)
        self._mean: NDArray[np.float64] = np.zeros(1)
        self._squares: NDArray[np.float64] = np.zeros(1)
        self._least: NDArray[np.float64] = np.full(1, np.inf)
        self._most: NDArray[np.float64] = np.full(1, -np.inf)

    def add(self, rows: NDArray[Any]) -> None:
        """Add rows by columns; arrays of another rank than 2 have a single column.

        Batches are combined as in Chan, Golub and LeVeque 1979.
        """
        values = np.asarray(rows, np.float64)
        values = values if values.ndim == 2 else values.reshape(-1, 1)
        finite = np.isfinite(values)
        number = finite.sum(0).astype(np.float64)
        mean = np.where(finite, values, 0.0).sum(0) / np.maximum(number, 1)
        squares = (np.where(finite, values - mean, 0.0) ** 2).sum(0)
        total = np.maximum(self._count + number, 1)
        delta = mean - self._mean
        self._squares = self._squares + squares + delta**2 * self._count * number / total
        self._mean = self._mean + delta * number / total
        self._count = self._count + number
        self._least = np.minimum(self._least, np.where(finite, values, np.inf).min(0, initial=np.inf))
        self._most = np.maximum(self._most, np.where(finite, values, -np.inf).max(0, initial=-np.inf))

    def scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return means and standard deviations, at least the rounding error of the mean in single precision.

        Constant columns have a standard deviation of 1.

        Raises:
            ConfigError: If no value was finite.
        """
        if not self._count.any():
            raise ConfigError("no value is finite")
        std = np.sqrt(self._squares / np.maximum(self._count, 1))
        std = np.maximum(std, _ROUNDING * np.abs(self._mean))
        return tuple(self._mean.tolist()), tuple(np.where(self.constant, 1.0, std).tolist())

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Whether a column holds a single finite value, or none."""
        return self._least >= self._most

    @property
    def least(self) -> NDArray[np.float64]:
        """Smallest finite value of each column; 0 for columns without one."""
        return np.where(self._count > 0, self._least, 0.0)

    @property
    def most(self) -> NDArray[np.float64]:
        """Largest finite value of each column; 0 for columns without one."""
        return np.where(self._count > 0, self._most, 0.0)


# -- classes ------------------------------------------------------------------------------------------------------


def row_classes(targets: NDArray[Any]) -> NDArray[np.int64]:
    """Return the class of each row; that of one-hot rows is their column.

    Args:
        targets: Shape (rows, ...).

    Raises:
        ConfigError: If rows have no single class.
    """
    if targets.ndim == 2 and targets.shape[1] > 1 and bool((targets.sum(axis=1) == 1).all()):
        return np.asarray(targets.argmax(axis=1), np.int64)
    if not targets.ndim or targets.size != len(targets):
        raise ConfigError("class weights need one class a row, or one-hot rows")
    flat = targets.reshape(-1)
    if flat.dtype.kind == "f" and not bool((flat == np.round(flat)).all()):
        raise ConfigError("class weights need class numbers as targets; these are real numbers")
    return flat.astype(np.int64)


def class_counts(batches: Iterable[NDArray[Any]]) -> Counter[int]:
    """Return how many rows of each class there are in batches of targets; rows that are masked do not count.

    Raises:
        ConfigError: If rows have no single class, or a class is negative, -1 beside 1 alone excepted.
    """
    counts = Counter[int]()
    for targets in batches:
        counts.update(row_classes(targets).tolist())
    del counts[MASKED]
    if set(counts) != {-1, 1} and min(counts, default=0) < 0:
        raise ConfigError(f"a class can't have the number {min(counts)}")
    return counts


def class_weights(counts: Counter[int]) -> tuple[float, ...]:
    """Return rows ÷ (classes × rows of the class), as King and Zeng 2001, for class 0, 1, … (or -1 and 1).

    A class that never occurs has the weight 0.

    Raises:
        ConfigError: If there are fewer than two classes.
    """
    if len(counts) < 2:
        raise ConfigError("the training data hold a single class")
    even = counts.total() / len(counts)
    labels = (-1, 1) if set(counts) == {-1, 1} else range(max(counts) + 1)
    return tuple(even / counts[label] if counts[label] else 0.0 for label in labels)


def row_weights(targets: NDArray[Any], weights: Sequence[float]) -> NDArray[np.float64]:
    """Return the weight of each row's class; 0 for rows that are masked.

    Args:
        targets: Shape (rows, ...).
        weights: Of class 0, 1, …; of -1 and 1.
    """
    classes = row_classes(targets)
    if len(weights) == 2:
        classes = np.where(classes == -1, 0, classes)
    return np.where(classes < 0, 0.0, np.asarray(weights, np.float64)[np.clip(classes, 0, len(weights) - 1)])


def class_labels(batches: Iterable[NDArray[Any]]) -> tuple[int, ...]:
    """Return the class numbers that occur in batches of targets, in order; those of one-hot rows are their columns.

    Raises:
        ConfigError: If targets are not class numbers from 0 on.
    """
    labels: set[float] = set()
    for targets in batches:
        one_hot = targets.ndim == 2 and targets.shape[1] > 1 and bool((targets.sum(axis=1) == 1).all())
        labels.update(np.unique(targets.argmax(axis=1) if one_hot else targets).tolist())
    labels.discard(MASKED)
    if not labels or any(label < 0 or label != int(label) for label in labels):
        raise ConfigError("the targets are not class numbers from 0 on")
    return tuple(sorted(int(label) for label in labels))


# -- refusals -----------------------------------------------------------------------------------------------------


def scaling_refusal(info: LossInfo) -> str:
    """Return why targets can't be standardized under a loss, or an empty string."""
    by_difference = info.family in _COMPARE_BY_DIFFERENCE and info.name not in _COMPARE_BY_RATIO
    if by_difference and info.expects not in ("log_values", "log_probabilities"):
        return ""
    return f"{info.name} does not compare outputs with targets by their difference"


def width_refusal(targets: int, outputs: int, info: LossInfo) -> str:
    """Return why targets of so many columns can't be standardized for so many outputs, or an empty string."""
    if targets == outputs:
        return ""
    reason = f"targets have {targets} columns and the output {outputs}"
    if not info.own:
        return reason
    return (
        f"{reason}: what the other outputs mean, such as the spread of a distribution, is known to the loss alone; "
        "standardize the targets before the training"
    )


def numbering_refusal(labels: Sequence[int], units: int, info: LossInfo) -> str:
    """Return why classes can't be numbered from 0 under a loss, or an empty string.

    Args:
        labels: Class numbers that occur, in order.
        units: Outputs of the model.
        info: What the loss computes.
    """
    if info.family != "cross_entropy":
        return f"{info.name} takes no class numbers"
    if len(labels) > units:
        return f"there are {len(labels)} classes and {units} outputs"
    return "classes are numbered from 0 already" if tuple(labels) == tuple(range(len(labels))) else ""


def bad_row_count(rows: int, good: int) -> int:
    """Return how many training rows hold values that are not finite.

    Args:
        rows: All rows.
        good: Those whose values are all finite.

    Raises:
        ConfigError: If there are none, or too many to leave them out.
    """
    if good == rows:
        raise ConfigError("all values of the training data are finite")
    if good < _MIN_GOOD_SHARE * rows:
        raise ConfigError(
            f"{rows - good} of {rows} training rows hold values that are not finite: fill them, or leave out the "
            "columns concerned"
        )
    return rows - good
