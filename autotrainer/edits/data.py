"""Edits of what goes into a training: batches, inputs, targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from autotrainer.edits.base import Edit
from autotrainer.errors import ConfigError

__all__ = [
    "AddInputNoise",
    "DropBadRows",
    "EncodeTargets",
    "NumberClasses",
    "ReshapeTargets",
    "ScaleInputs",
    "ScaleTargets",
    "SetBatchSize",
    "ShuffleData",
    "WeightClasses",
]


@dataclass(frozen=True, slots=True)
class SetBatchSize(Edit):
    """Train with batches of this many samples."""

    memory: ClassVar[bool] = True
    says_first: ClassVar[str | None] = "data"
    size: int


@dataclass(frozen=True, slots=True)
class AddInputNoise(Edit):
    """Add Gaussian noise to the inputs while training; ``std`` in units of the inputs' standard deviation."""

    change: ClassVar[int] = 2
    says_first: ClassVar[str | None] = "architecture"
    std: float


@dataclass(frozen=True, slots=True)
class ScaleInputs(Edit):
    """Standardize the inputs inside the model: (x - mean) / std.

    Without numbers they are fitted on the training data when the training is built, per feature for inputs of
    rank 2 and globally otherwise; the plan of a run holds the fitted numbers.
    """

    change: ClassVar[int] = 2
    says_first: ClassVar[str | None] = "input"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ScaleTargets(Edit):
    """Train on standardized targets, and go on answering in their own units.

    The loss compares (output - mean) / std with (target - mean) / std; what the model gave before is multiplied by
    std, and mean is added, inside the model. Without numbers they are fitted on the training data when the training
    is built, one for each column of the targets; the plan of a run holds the fitted numbers.
    """

    change: ClassVar[int] = 2
    says_first: ClassVar[str | None] = "loss"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ConfigError(f"ScaleTargets has {len(self.mean)} means and {len(self.std)} standard deviations")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or not all(std > 0 for std in self.std):
            raise ConfigError("ScaleTargets takes finite means, and finite standard deviations above 0")


@dataclass(frozen=True, slots=True)
class EncodeTargets(Edit):
    """Give the loss the targets in the form that it takes; the user's targets and the outputs stay as they are.

    Attributes:
        to: ``index`` (one-hot rows, or class numbers of another shape or type, become class indices), ``one_hot``
            (class indices become rows), ``zero_one`` (of two labels the lower becomes 0, the other 1) or ``signed``
            (0 becomes -1).
        labels: The two labels of ``zero_one``.
    """

    says_first: ClassVar[str | None] = "data"
    to: Literal["index", "one_hot", "zero_one", "signed"]
    labels: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        if self.to not in ("index", "one_hot", "zero_one", "signed"):
            raise ConfigError(f"targets can't be encoded as {self.to!r}: index, one_hot, zero_one or signed")
        if len(self.labels) != 2 or not -math.inf < self.labels[0] < self.labels[1] < math.inf:
            raise ConfigError(f"EncodeTargets takes two labels, the lower one first, not {self.labels}")


@dataclass(frozen=True, slots=True)
class NumberClasses(Edit):
    """Give the classes that occur, whatever their numbers, the outputs 0 to C - 1, and go on answering in the labels.

    Output k belongs to the k-th of ``labels``; inside the model it gets the column of that label, and columns of
    labels that never occur say no. So the loss takes the labels as they are, and the largest output is the label.
    Without labels those of the training data are taken when the training is built. ``fill`` is what columns of no label
    hold: far below every logit, or 0 for probabilities.
    """

    change: ClassVar[int] = 2
    says_first: ClassVar[str | None] = "output"
    labels: tuple[int, ...] = ()
    fill: float = -1e4

    def __post_init__(self) -> None:
        if any(label < 0 for label in self.labels) or list(self.labels) != sorted(set(self.labels)):
            raise ConfigError(f"NumberClasses takes labels from 0 on, each once and in order, not {self.labels}")
        if not math.isfinite(self.fill):
            raise ConfigError("NumberClasses takes a finite fill")


@dataclass(frozen=True, slots=True)
class ReshapeTargets(Edit):
    """Give the loss the targets in the shape of the outputs: (n,) becomes (n, 1), or the other way round."""

    says_first: ClassVar[str | None] = "data"


@dataclass(frozen=True, slots=True)
class ShuffleData(Edit):
    """Draw the rows of each epoch in an order of its own."""

    says_first: ClassVar[str | None] = "data"


@dataclass(frozen=True, slots=True)
class WeightClasses(Edit):
    """Weigh each row in the loss by its class, so that all classes count alike.

    ``weights`` are those of class 0, 1, ... (of -1 and 1). Without, they are rows / (classes * rows of the class) in
    the training data, fitted when the training is built.
    """

    says_first: ClassVar[str | None] = "loss"
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not all(math.isfinite(weight) and weight >= 0 for weight in self.weights):
            raise ConfigError("WeightClasses takes finite weights >= 0")


@dataclass(frozen=True, slots=True)
class DropBadRows(Edit):
    """Leave out the training rows that hold NaN or infinite values.

    ``rows`` is how many there are, None before the training is built; validation data stay as they are.
    """

    says_first: ClassVar[str | None] = "data"
    rows: int | None = None

    def __post_init__(self) -> None:
        if self.rows is not None and self.rows < 0:
            raise ConfigError(f"DropBadRows can't leave out {self.rows} rows")
