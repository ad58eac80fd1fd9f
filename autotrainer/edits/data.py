"""Edits of what goes into a training: batches, inputs, targets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from autotrainer.edits.base import Count, Edit, NonNegative, Positive, Range, Whole, join_numbers, quoted, shorten
from autotrainer.errors import ConfigError

__all__ = [
    "AddInputNoise",
    "DropBadRows",
    "EncodeTargets",
    "LeadPadding",
    "NumberClasses",
    "ReshapeTargets",
    "ScaleEachTarget",
    "ScaleInputs",
    "ScaleTargets",
    "SetBatchSize",
    "ShuffleData",
    "WeightClasses",
]


LARGEST_LOGARITHM = 40.0
"""Largest magnitude of a logarithm that is converted back: of 2e17 times the scale, whose square is finite in single
precision, too."""
_REACH = 100.0
"""Largest replacement of a missing value, in standard deviations."""
_LARGEST = 1e38
"""Largest number in a model: single precision holds it, and its inverse is not rounded to zero."""

_MISSING = ("missing_columns", "missing_values", "missing_fills")


@dataclass(frozen=True, slots=True)
class SetBatchSize(Edit):
    """Train with batches of this many samples (>= 1)."""

    memory: ClassVar[bool] = True
    affects: ClassVar[str | None] = "data"
    example_values: ClassVar[Mapping[str, Any]] = {"size": 16}
    size: Count

    def __str__(self) -> str:
        return f"batches of {self.size} samples"


@dataclass(frozen=True, slots=True)
class AddInputNoise(Edit):
    """Add Gaussian noise to the inputs while training; ``std``, in (0, 1], is in units of their standard deviation."""

    change: ClassVar[int] = 2
    affects: ClassVar[str | None] = "architecture"
    example_values: ClassVar[Mapping[str, Any]] = {"std": 0.1}
    std: Annotated[float, Range(above=0, most=1)]

    def __str__(self) -> str:
        return f"Gaussian noise of {self.std:g} standard deviations on the inputs while training"


@dataclass(frozen=True, slots=True)
class ScaleInputs(Edit):
    """Standardize the inputs inside the model: (x - mean) / std.

    Without numbers they are fitted on the training data when the training is built, per feature for inputs of
    rank 2 and globally otherwise; the plan of a run holds the fitted numbers.

    Attributes:
        mean: Means, one for each feature or a single one; after the logarithm.
        std: Standard deviations, as many.
        log_center: Centers of features on a logarithmic scale: asinh((x - center) / scale) takes the place of x.
        log_scale: Their scales; 0 for all other features. Empty, as the centers, if there is no such feature.
        constant: Features that hold one value, or none, in the training data: they are always 0 in the model.
        row_numbers: Features that only count the rows in their order: they are always 0 in the model, too.
        missing_columns: Features in which a number stands for missing values; more than once if several do.
        missing_values: These numbers.
        missing_fills: What takes their place, in standard deviations from the mean.
    """

    change: ClassVar[int] = 2
    affects: ClassVar[str | None] = "input"
    mean: tuple[float, ...] = ()
    std: tuple[Positive, ...] = ()
    log_center: tuple[float, ...] = ()
    log_scale: tuple[NonNegative, ...] = ()
    constant: tuple[Whole, ...] = ()
    row_numbers: tuple[Whole, ...] = ()
    missing_columns: tuple[Whole, ...] = ()
    missing_values: tuple[float, ...] = ()
    missing_fills: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        Edit.__post_init__(self)
        _check_pairs(self)
        _check_logarithms(self)
        _check_missing(self)
        width = len(self.mean)
        if any(column >= width for column in self.dropped) or len(set(self.dropped)) != len(self.dropped):
            raise ConfigError(
                f"ScaleInputs: features that are dropped must be among the {width} features, each once, not "
                f"{shorten(self.dropped)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; what concerns single columns only where there is any."""
        optional = ("log_center", "log_scale", "constant", "row_numbers", *_MISSING)
        return {name: value for name, value in Edit.to_dict(self).items() if value or name not in optional}

    @property
    def dropped(self) -> tuple[int, ...]:
        """Features that are always 0 in the model."""
        return (*self.constant, *self.row_numbers)

    @property
    def logarithmic(self) -> tuple[int, ...]:
        """Features on a logarithmic scale."""
        return tuple(column for column, scale in enumerate(self.log_scale) if scale)

    @property
    def missing(self) -> tuple[tuple[int, float, float], ...]:
        """Column, number and replacement of each number that stands for missing values."""
        return tuple(zip(self.missing_columns, self.missing_values, self.missing_fills, strict=True))

    @property
    def by_column(self) -> bool:
        """Whether there is more to it than means and standard deviations."""
        return bool(self.logarithmic or self.dropped or self.missing)

    def __str__(self) -> str:
        parts = ["inputs standardized inside the model with mean and standard deviation of the training data"]
        if self.logarithmic:
            parts.append(f"{_columns(self.logarithmic)} of values over several decades on a logarithmic scale")
        if self.missing:
            codes = sorted({f"{value:g}" for value in self.missing_values}, key=float)
            columns = tuple(sorted(set(self.missing_columns)))
            parts.append(f"{' and '.join(codes)} in {_columns(columns)} replaced, as it stands for missing values")
        if self.constant:
            parts.append(f"{_columns(self.constant)} dropped as constant or empty")
        if self.row_numbers:
            parts.append(f"{_columns(self.row_numbers)} dropped as row number: in order, and unrelated to the target")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class LeadPadding(Edit):
    """Move the padding at the end of token sequences to their start, inside the model.

    Attributes:
        token: The token that pads; None: found in the training data when the training is built.
    """

    change: ClassVar[int] = 2
    affects: ClassVar[str | None] = "input"
    token: Whole | None = None

    def __str__(self) -> str:
        token = "" if self.token is None else f" (token {self.token})"
        return f"padding{token} moved from the end of each sequence to its start inside the model"


@dataclass(frozen=True, slots=True)
class ScaleTargets(Edit):
    """Train on standardized targets; the model still returns outputs in the original units.

    The loss compares (output - mean) / std with (target - mean) / std; inside the model, the previous output is
    multiplied by std, and mean is added. Without numbers they are fitted on the training data when the training is
    built, one for each column of the targets; the plan of a run holds the fitted numbers.

    Attributes:
        mean: Means, one for each column or a single one; after the logarithm.
        std: Standard deviations, as many.
        logarithm: Whether targets over several decades are compared on a logarithmic scale.
        log_center: Centers of columns on that scale: asinh((y - center) / scale) takes the place of y in the loss.
        log_scale: Their scales; 0 for all other columns. Empty, as the centers, if there is no such column.
        log_reach: Largest distances of these columns from the mean in standard deviations, to which predictions are
            limited; as many.
    """

    change: ClassVar[int] = 2
    affects: ClassVar[str | None] = "loss"
    mean: tuple[float, ...] = ()
    std: tuple[Positive, ...] = ()
    logarithm: bool = False
    log_center: tuple[float, ...] = ()
    log_scale: tuple[NonNegative, ...] = ()
    log_reach: tuple[Positive, ...] = ()

    def __post_init__(self) -> None:
        Edit.__post_init__(self)
        _check_pairs(self)
        _check_logarithms(self)
        if len(self.log_reach) != len(self.log_scale):
            raise ConfigError(
                f"ScaleTargets has {len(self.log_scale)} scales and {len(self.log_reach)} reaches of logarithms: give "
                "as many of each"
            )
        if bool(self.mean and self.logarithm) is not any(self.log_scale):
            raise ConfigError(
                "ScaleTargets: with numbers, logarithm says whether a scale of a logarithm is among them; it is "
                f"{self.logarithm}, and they are {shorten(self.log_scale)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; what concerns logarithms only where there are any."""
        optional = ("logarithm", "log_center", "log_scale", "log_reach")
        return {name: value for name, value in Edit.to_dict(self).items() if value or name not in optional}

    def __str__(self) -> str:
        numbers = "mean and standard deviation of the training data"
        if self.mean:
            numbers = f"mean {join_numbers(self.mean)} and standard deviation {join_numbers(self.std)}"
        how = "taken on a logarithmic scale and standardized" if self.logarithm else "standardized"
        return f"targets {how} for the loss with {numbers}; outputs converted back to the original units"


@dataclass(frozen=True, slots=True)
class ScaleEachTarget(Edit):
    """Train several outputs on standardized targets each; the model still returns them in the original units.

    Without numbers they are fitted on the training data when the training is built, for the outputs whose loss is a
    difference and whose targets are far from unit scale; the plan of a run holds them. All losses count alike.

    Attributes:
        outputs: Names of these outputs.
        mean: Means of their targets, as many.
        std: Standard deviations, as many.
    """

    change: ClassVar[int] = 2
    affects: ClassVar[str | None] = "loss"
    outputs: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[Positive, ...] = ()

    def __post_init__(self) -> None:
        Edit.__post_init__(self)
        _check_pairs(self)
        if len(self.outputs) != len(self.mean):
            raise ConfigError(
                f"ScaleEachTarget has {len(self.outputs)} outputs and {len(self.mean)} means: give as many of each"
            )

    def __str__(self) -> str:
        if not self.outputs:
            return "targets of each output standardized for its loss; outputs converted back to the original units"
        each = ", ".join(
            f"{quoted(name)}: mean {mean:.4g}, standard deviation {std:.4g}"
            for name, mean, std in zip(self.outputs, self.mean, self.std, strict=True)
        )
        return f"targets standardized for the loss ({each}); outputs converted back to the original units"


def _columns(columns: tuple[int, ...]) -> str:
    """Return indices of columns as text."""
    return f"column{'s' * (len(columns) > 1)} {join_numbers(columns)}"


def _check_pairs(edit: ScaleInputs | ScaleTargets | ScaleEachTarget) -> None:
    if len(edit.mean) != len(edit.std):
        raise ConfigError(
            f"{type(edit).__name__} has {len(edit.mean)} means and {len(edit.std)} standard deviations: give as many "
            "of each, or none to fit them on the training data"
        )
    if any(abs(number) > _LARGEST for number in (*edit.mean, *edit.std)) or any(std < 1 / _LARGEST for std in edit.std):
        raise ConfigError(
            f"{type(edit).__name__}: numbers must lie within single precision, up to {_LARGEST:g}, and standard "
            f"deviations be at least {1 / _LARGEST:g}"
        )


def _check_missing(edit: ScaleInputs) -> None:
    counts = {len(edit.missing_columns), len(edit.missing_values), len(edit.missing_fills)}
    pairs = set(zip(edit.missing_columns, edit.missing_values, strict=False))
    known = all(column < len(edit.mean) for column in edit.missing_columns)
    reach = all(abs(number) <= _REACH for number in edit.missing_fills)
    if len(counts) > 1 or len(pairs) < max(counts) or not known or not reach:
        raise ConfigError(
            "ScaleInputs: give a column, a number that stands for missing values, and a replacement of up to "
            f"{_REACH:g} standard deviations, as many of each, and none of them twice"
        )


def _check_logarithms(edit: ScaleInputs | ScaleTargets) -> None:
    name, scales, width = type(edit).__name__, edit.log_scale, len(edit.mean)
    if len(edit.log_center) != len(scales) or len(scales) not in (0, width):
        raise ConfigError(
            f"{name} has {width} means, {len(edit.log_center)} centers and {len(scales)} scales of logarithms: give as "
            "many of each, or no logarithms"
        )
    if any(abs(center) > _LARGEST for center in edit.log_center) or any(
        scale > _LARGEST or 0 < scale < 1 / _LARGEST for scale in scales
    ):
        raise ConfigError(
            f"{name}: centers and scales of logarithms must lie within single precision, up to {_LARGEST:g}, and "
            f"scales be 0 or at least {1 / _LARGEST:g}"
        )


@dataclass(frozen=True, slots=True)
class EncodeTargets(Edit):
    """Give the loss the targets in the form that it takes; the user's targets and the outputs stay as they are.

    Attributes:
        to: ``index`` (one-hot rows, or class numbers of another shape or type, become class indices), ``one_hot``
            (class indices become rows), ``zero_one`` (of two labels the lower becomes 0, the other 1) or ``signed``
            (0 becomes -1).
        labels: The two labels of ``zero_one``, the lower one first.
    """

    affects: ClassVar[str | None] = "data"
    example_values: ClassVar[Mapping[str, Any]] = {"to": "zero_one"}
    to: Literal["index", "one_hot", "zero_one", "signed"]
    labels: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        Edit.__post_init__(self)
        if not 0 < self.labels[1] - self.labels[0] < math.inf:
            raise ConfigError(f"EncodeTargets takes two labels, the lower one first, not {self.labels}")

    def __str__(self) -> str:
        forms = {
            "index": "as class indices",
            "one_hot": "as one-hot rows",
            "signed": "as -1 and 1 (from 0 and 1)",
            "zero_one": "as 0 and 1 (from {:g} and {:g})".format(*self.labels),
        }
        return f"targets encoded for the loss {forms[self.to]}"


@dataclass(frozen=True, slots=True)
class NumberClasses(Edit):
    """Number the classes that occur from 0 to C - 1 for the loss; the model still answers in the original labels.

    Output k belongs to the k-th of ``labels``; inside the model it is moved to the column of that label, and columns
    of labels that never occur get ``fill``. So the loss takes the labels as they are, and the largest output is that of
    the predicted label.

    Attributes:
        labels: Labels from 0 to 1,000,000, each once and in order; empty: those of the training data, found when the
            training is built.
        fill: Value of the columns of no label, in [-1e38, 1e38]: far below every logit, or 0 for probabilities.
    """

    change: ClassVar[int] = 2
    affects: ClassVar[str | None] = "output"
    labels: tuple[Annotated[int, Range(least=0, most=1_000_000)], ...] = ()
    fill: Annotated[float, Range(least=-_LARGEST, most=_LARGEST)] = -1e4

    def __post_init__(self) -> None:
        Edit.__post_init__(self)
        if list(self.labels) != sorted(set(self.labels)):
            raise ConfigError(f"NumberClasses takes labels in rising order, each once, not {shorten(self.labels)}")

    def __str__(self) -> str:
        span = f" {self.labels[0]} … {self.labels[-1]}" if self.labels else ""
        return f"classes numbered from 0 inside the model, outputs moved to the columns of the original labels{span}"


@dataclass(frozen=True, slots=True)
class ReshapeTargets(Edit):
    """Give the loss the targets in the shape of the outputs: (n,) becomes (n, 1), or the other way round."""

    affects: ClassVar[str | None] = "data"

    def __str__(self) -> str:
        return "targets in the shape of the outputs"


@dataclass(frozen=True, slots=True)
class ShuffleData(Edit):
    """Shuffle the training rows in each epoch."""

    affects: ClassVar[str | None] = "data"

    def __str__(self) -> str:
        return "training rows shuffled in each epoch"


@dataclass(frozen=True, slots=True)
class WeightClasses(Edit):
    """Weight each row in the loss by its class, so that all classes count alike.

    ``weights`` (>= 0) are those of class 0, 1, ... (of -1 and 1). Without, they are rows / (classes * rows of the
    class) in the training data, computed when the training is built.
    """

    affects: ClassVar[str | None] = "loss"
    weights: tuple[NonNegative, ...] = ()

    def __post_init__(self) -> None:
        Edit.__post_init__(self)
        if self.weights and not any(self.weights):
            raise ConfigError("WeightClasses needs a weight above 0: with only zeros, no row counts")

    def __str__(self) -> str:
        weights = join_numbers(self.weights) if self.weights else "rows / (classes * rows of the class)"
        return f"rows weighted in the loss by their class: {weights}"


@dataclass(frozen=True, slots=True)
class DropBadRows(Edit):
    """Leave out the training rows that hold NaN or infinite values.

    ``rows`` is how many there are, None before the training is built; validation data stay as they are.
    """

    affects: ClassVar[str | None] = "data"
    rows: Whole | None = None

    def __str__(self) -> str:
        rows = "training rows" if self.rows is None else f"{self.rows} training rows"
        return f"{rows} with NaN or infinite values left out"
