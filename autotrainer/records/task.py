"""What the training is for: loss, kind of targets, kind of task, and when an output counts as right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.signals import LayerInfo

__all__ = ["MASKED", "LossInfo", "OptimizerInfo", "TargetSummary", "TaskContext", "TaskKind", "correct_rows"]

MASKED = -100
"""Class index of what does not count: `ignore_index` of the losses of PyTorch."""

TaskKind = Literal["multiclass", "binary", "multilabel", "regression", "unknown"]
Expects = Literal["logits", "probabilities", "log_probabilities", "values", "log_values", "unknown"]


@dataclass(frozen=True, slots=True)
class LossInfo:
    """What a loss computes.

    Attributes:
        name: As the framework calls it.
        family: ``cross_entropy`` (over classes), ``binary_cross_entropy``, ``squared_error``,
            ``absolute_error``, ``huber``, ``hinge``, ``poisson``, ``kl_divergence``, ``custom`` or ``none``.
        expects: What it takes the model's output for: of the target's own scale, or its logarithm, or a classifier's.
        targets: ``index``, ``one_hot``, ``either`` or ``values``: the form of targets it takes.
        class_axis: Axis of the classes in the output: 1 for PyTorch's cross-entropies, else -1.
        reduction: ``mean``, ``sum`` or ``none``.
        weighted: Whether it is known to weigh classes or rows unequally: its value and the share of right answers
            are then not what they are otherwise.
    """

    name: str = "unknown"
    family: str = "custom"
    expects: Expects = "unknown"
    targets: str = "values"
    class_axis: int = -1
    reduction: str = "mean"
    weighted: bool = False

    @property
    def classifies(self) -> bool:
        """Whether it is a loss for classes or labels."""
        return self.family in ("cross_entropy", "binary_cross_entropy", "hinge")

    @property
    def own(self) -> bool:
        """Whether it is one of the user's own, or not known at all."""
        return self.family in ("custom", "none")


@dataclass(frozen=True, slots=True)
class OptimizerInfo:
    """Name (lower case: ``sgd``, ``adam``, …), initial learning rate and momentum of an optimizer, or of the first.

    ``several`` says that there are further ones, each with a loss of its own; ``scheduled`` that a schedule of the
    learning rate is attached.
    """

    name: str = "unknown"
    learning_rate: float = float("nan")
    momentum: float = 0.0
    weight_decay: float = 0.0
    several: bool = False
    scheduled: bool = False


@dataclass(frozen=True, slots=True)
class TargetSummary:
    """What all targets seen so far look like.

    Attributes:
        count: Values seen (rows × width).
        rows: Rows seen.
        rank: Number of dimensions of a batch of targets.
        width: Size of the last axis if the rank is at least 2, else 1.
        integer_type: Whether they came with an integer (or boolean) type.
        integral: Whether all values are whole numbers.
        minimum: Smallest value.
        maximum: Largest value.
        mean: Mean of all values.
        variance: Mean over columns of their variance: the squared error of the best constant.
        values: The distinct values if there are at most 32 and all are whole, sorted; else empty.
        one_hot: Width > 1 and each row is one 1 and zeros.
        classes: Number of distinct classes seen (whole values, or one-hot columns); 0 if not discrete.
        majority: Share of the commonest class; NaN if not discrete.
        entropy: Entropy of the classes in nats; NaN if not discrete.
        rarest: Share of the rarest class; NaN if not discrete.
        masked: Whether some class indices are -100, which means "leave this one out" and counts nowhere else here.
    """

    count: int = 0
    rows: int = 0
    rank: int = 0
    width: int = 1
    integer_type: bool = False
    integral: bool = False
    minimum: float = float("nan")
    maximum: float = float("nan")
    mean: float = float("nan")
    variance: float = float("nan")
    values: tuple[float, ...] = ()
    one_hot: bool = False
    classes: int = 0
    majority: float = float("nan")
    entropy: float = float("nan")
    rarest: float = float("nan")
    masked: bool = False

    @property
    def binary(self) -> bool:
        """Only 0 and 1."""
        return bool(self.values) and set(self.values) <= {0.0, 1.0}

    @property
    def signed(self) -> bool:
        """Only -1 and 1 (both)."""
        return set(self.values) == {-1.0, 1.0}


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What is known of a training besides its measurements.

    Attributes:
        framework: ``pytorch`` or ``keras3``.
        engine: Keras engine (``tensorflow``, ``torch``, ``jax``), else the framework.
        loss: The loss.
        optimizer: The optimizer.
        layers: All layers, in forward order.
        output_activation: Lower-case name (``softmax``, ``sigmoid``, ``relu``, ``linear``, …) of what the
            output went through; None if it can't be known.
        output_units: Size of the output's class or unit axis; None if unknown.
        output_rank: Number of dimensions of a batch of outputs, where the loss takes them as they are; else None.
        loss_refusal: Shapes and types of outputs and targets, and what the loss says of them, where `check` finds
            that it can't be computed; else empty.
        input_kind: ``values``, ``scaled`` (values that the model standardizes itself, first of all), ``index``
            (integers for an embedding) or ``unknown``.
        planned_epochs: Planned length in epochs, or None.
        planned_steps: Planned length in steps, or None.
        train_rows: Number of training samples, or None.
        batch_size: Samples a batch, or None.
        dropout: Largest share of values that a layer leaves out at random in training mode, or None.
        managed: True inside `autotrainer.fit`.
        arrays: True where `check` was given whole arrays: their order says nothing of that in training.
        asked: What was asked of data and model, by name: see `autotrainer.records.facts.FACTS`.
    """

    framework: str = "unknown"
    engine: str = "unknown"
    loss: LossInfo = field(default_factory=LossInfo)
    optimizer: OptimizerInfo = field(default_factory=OptimizerInfo)
    layers: tuple[LayerInfo, ...] = ()
    output_activation: str | None = None
    output_units: int | None = None
    output_rank: int | None = None
    loss_refusal: str = ""
    input_kind: str = "unknown"
    planned_epochs: int | None = None
    planned_steps: int | None = None
    train_rows: int | None = None
    batch_size: int | None = None
    dropout: float | None = None
    managed: bool = False
    arrays: bool = False
    asked: Mapping[str, float] = field(default_factory=dict, hash=False)

    def kind(self, targets: TargetSummary) -> TaskKind:
        """Return the kind of task, from the targets first and the loss second."""
        if targets.count == 0:
            return "unknown"
        if targets.one_hot:
            return "multiclass"
        if targets.width > 1 and targets.binary and self.output_units == targets.width:
            return "multilabel"
        if targets.binary or targets.signed:
            many = self.output_units is not None and self.output_units > 1
            return "multiclass" if many and targets.binary else "binary"
        if self.loss.family == "cross_entropy":
            return "multiclass"
        room = self.output_units is not None and self.output_units >= max(2, targets.classes)
        steps = targets.integer_type and targets.width != self.output_units  # one index for each step of a sequence
        if targets.integral and targets.classes and targets.minimum >= 0 and (targets.width == 1 or steps) and room:
            return "multiclass"
        if self.loss.classifies:
            return "multilabel" if targets.width > 1 else "binary"
        chance = self.output_activation == "sigmoid" and self.output_units == 1
        if chance and self.loss.family == "custom" and targets.integral and len(targets.values) == 2:
            return "binary"  # a loss of one's own that gets labels such as 1 and 2
        return "regression"

    def cut(self, targets: TargetSummary) -> float:
        """Return the value above which a single output unit means "yes"."""
        return 0.0 if self.loss.expects == "logits" or targets.signed else 0.5

    def trivial_accuracy(self, targets: TargetSummary) -> float:
        """Return the accuracy of always answering the commonest class; NaN for regression."""
        return targets.majority if self.kind(targets) not in ("regression", "unknown") else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild a context from what `to_dict` returned; unknown keys are ignored."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        known["loss"] = LossInfo(**known.get("loss", {}))
        optimizer = dict(known.get("optimizer", {}))
        rate = optimizer.get("learning_rate")
        optimizer["learning_rate"] = float("nan") if rate is None else float(rate)
        known["optimizer"] = OptimizerInfo(**optimizer)
        known["layers"] = tuple(LayerInfo(**v) for v in known.get("layers", ()))
        known["asked"] = {name: float(value) for name, value in known.get("asked", {}).items() if value is not None}
        return cls(**known)


def correct_rows(
    outputs: NDArray[Any], targets: NDArray[Any], kind: TaskKind, *, cut: float = 0.5, class_axis: int = -1
) -> NDArray[np.float64]:
    """Return, row by row, how much of a prediction is right.

    Args:
        outputs: Raw outputs, shape (rows, units), (rows, time, units) or, with ``class_axis=1``,
            (rows, units, time...).
        targets: Class indices, one-hot rows, labels in {0, 1} or {-1, 1}. Negative class indices are masked.
        kind: Kind of task; must be a classification.
        cut: Value above which a single unit means "yes".
        class_axis: Axis of the classes in ``outputs``.

    Returns:
        Shape (rows,), each in [0, 1]: the mean over labels or unmasked time steps; NaN where all is masked.
        A row with an output that is not finite counts as wrong.
    """
    rows = len(outputs)
    finite = np.isfinite(outputs.reshape(rows, -1)).all(axis=1)
    if outputs.ndim > 1 and outputs.shape[class_axis] > 1 and kind == "multiclass":
        predicted = np.argmax(outputs, axis=class_axis)
        one_hot = targets.shape == outputs.shape
        wanted = np.argmax(targets, axis=class_axis) if one_hot else targets.reshape(predicted.shape)
        mask = np.ones(predicted.shape, bool) if one_hot else wanted >= 0
    else:
        predicted = outputs.reshape(rows, -1) > cut
        wanted = targets.reshape(rows, -1) > 0.5 if targets.min(initial=0) >= 0 else targets.reshape(rows, -1) > 0
        mask = np.ones(predicted.shape, bool)
    right = ((predicted == wanted) & mask).reshape(rows, -1).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(finite, right / mask.reshape(rows, -1).sum(axis=1), 0.0)
