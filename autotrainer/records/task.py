"""What a model is trained for: loss, targets, kind of task, and when an output counts as correct."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.schema import rebuild
from autotrainer.records.signals import LayerInfo

__all__ = ["MASKED", "LossInfo", "OptimizerInfo", "TargetSummary", "TaskContext", "TaskKind"]
__all__ += ["correct_rows", "correct_values"]

MASKED = -100
"""Class index of masked targets, which do not count: the default `ignore_index` of PyTorch's losses."""

TaskKind = Literal["multiclass", "binary", "multilabel", "regression", "unknown"]
Expects = Literal["logits", "probabilities", "log_probabilities", "values", "log_values", "unknown"]


@dataclass(frozen=True, slots=True)
class LossInfo:
    """Properties of a loss.

    Attributes:
        name: Its name in the framework.
        family: ``cross_entropy`` (over classes), ``binary_cross_entropy``, ``squared_error``,
            ``absolute_error``, ``huber``, ``hinge``, ``ranking``, ``poisson``, ``kl_divergence``, ``custom`` or
            ``none``.
        expects: The outputs that it expects: ``logits``, ``probabilities``, ``log_probabilities``, ``values`` (on the
            scale of the targets), ``log_values`` (their logarithm) or ``unknown``.
        targets: The form of targets that it takes: ``index``, ``one_hot``, ``either`` or ``values``.
        class_axis: Axis of the classes in the output: 1 for PyTorch's cross-entropies, else -1.
        reduction: ``mean``, ``sum`` or ``none``.
        weighted: Whether it is known to weight classes or rows unequally, or to add terms or factors, so that its value
            is not comparable with a plain one.
        smoothed: Whether it smooths labels: they then have another entropy.
        modulated: Whether it scales or bounds the cross-entropy of each row, as focal and generalized cross-entropies
            do, so that it is comparable with no entropy.
        composite: Whether the loss of a step also holds losses of further outputs or penalties: see ``data_loss`` in
            `autotrainer.records.signals.STEP_COLUMNS`.
        identified: Whether it is a custom loss that was recognized by its values.
        margin: The loss of equal outputs for all inputs, where that is a constant, as in losses that rank; else None.
        of_distance: Whether a custom loss is known to be lower where single outputs are low for a target of 1 and high
            for one of 0, as is the contrastive loss of a distance: they then do not estimate the targets.
        indirect: Whether a custom loss is known to be lowest elsewhere than where outputs are near the targets, row by
            row: they are logarithms, ranks, hazards or embeddings, and only the value of the loss judges them.
        ignores_targets: Whether its value is known not to depend on the targets at all: these only fill their place.
        cut: Threshold above which a single output means the label 1, where it is measured of a custom loss; else None.
    """

    name: str = "unknown"
    family: str = "custom"
    expects: Expects = "unknown"
    targets: str = "values"
    class_axis: int = -1
    reduction: str = "mean"
    weighted: bool = False
    identified: bool = False
    margin: float | None = None
    smoothed: bool = False
    modulated: bool = False
    composite: bool = False
    of_distance: bool = False
    indirect: bool = False
    ignores_targets: bool = False
    cut: float | None = None

    @property
    def classifies(self) -> bool:
        """Whether it is a classification loss."""
        return self.family in ("cross_entropy", "binary_cross_entropy", "hinge")

    @property
    def standard(self) -> bool:
        """Whether its unweighted mean over rows is comparable with the entropy or the variance of the targets."""
        return not self.smoothed and not self.modulated

    @property
    def plain(self) -> bool:
        """Whether the loss of a step is a mean that is comparable with the entropy or the variance of the targets."""
        return self.standard and self.reduction == "mean" and not self.weighted and not self.composite

    def mixes_classes(self, targets: TargetSummary) -> bool:
        """Return whether a cross-entropy over classes gets rows of other sums than one class: several labels, or none.

        The entropy of the targets is then not its value for a constant prediction, and no output has a cut of its own.
        """
        rows = self.targets == "one_hot" or (self.targets == "either" and not targets.integer_type)
        return self.family == "cross_entropy" and rows and targets.width > 1 and targets.binary and not targets.one_hot

    @property
    def own(self) -> bool:
        """Whether it is a custom loss, or unknown."""
        return self.family in ("custom", "none")

    @property
    def judged_by_value(self) -> bool:
        """Whether outputs are known not to estimate the targets of a custom loss: only its value judges them."""
        return self.of_distance or self.indirect

    @property
    def aligns(self) -> bool:
        """Whether its name is that of a temporal classification (CTC), which `ObjectClassLoss` is not."""
        return re.search(r"CTC|Ctc(?![a-z])|(?<![A-Za-z])ctc", self.name) is not None


@dataclass(frozen=True, slots=True)
class OptimizerInfo:
    """Properties of the optimizer, or of the first of several.

    Attributes:
        name: Lower-case name (``sgd``, ``adam``, …).
        learning_rate: Initial learning rate; NaN if unknown.
        momentum: Momentum; 0 without any.
        weight_decay: Weight decay; 0 without any.
        several: Whether there are further optimizers, each with a separate loss.
        scheduled: Whether a learning-rate schedule is attached.
        schedule: Class of the schedule; empty if unknown.
        schedule_length: Steps of the scheduler (see ``scheduler_steps`` in `autotrainer.records.signals.STEP_COLUMNS`)
            until its rate no longer changes or begins again; None if unknown or unbounded.
        accumulation: Batches whose gradients the optimizer itself averages for each update of the weights.
        group_rates: Learning rates of the parameter groups with trainable parameters, if they differ; else empty.
    """

    name: str = "unknown"
    learning_rate: float = float("nan")
    momentum: float = 0.0
    weight_decay: float = 0.0
    several: bool = False
    scheduled: bool = False
    schedule: str = ""
    schedule_length: int | None = None
    accumulation: int = 1
    group_rates: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetSummary:
    """Summary of all targets so far.

    Attributes:
        count: Number of values (rows × width).
        rows: Number of rows.
        rank: Number of dimensions of a batch of targets.
        width: Size of the last axis if the rank is at least 2, else 1.
        integer_type: Whether their type is integer (or boolean).
        integral: Whether all values are whole numbers.
        minimum: Smallest value.
        maximum: Largest value.
        mean: Mean of all values.
        variance: Mean over columns of their variance: the squared error of the best constant prediction.
        deviation: Mean over columns of their mean absolute difference from the median of the first rows: about the
            absolute error of the best constant prediction.
        values: The distinct values if there are at most 32 and all are whole, sorted; else empty.
        one_hot: Whether the width is > 1 and each row holds a single 1 and zeros.
        classes: Number of distinct classes (integral values, or one-hot columns); 0 if not discrete.
        majority: Share of the most common class; NaN if not discrete.
        entropy: Entropy of the classes in nats; NaN if not discrete.
        rarest: Share of the rarest class; NaN if not discrete.
        masked: Whether some class indices are -100 (see `MASKED`); these count nowhere else here.
        distinct: Number of distinct values, whole or not, at most 33.
        column_majority: Mean over columns of the share of the more common side of one half; NaN unless all values lie
            in [0, 1]. The accuracy of the best constant prediction of independent labels.
        column_entropy: Mean over columns of the binary entropy of the column's mean, in nats: the binary cross-entropy
            of the best constant prediction; NaN unless all values lie in [0, 1].
        value_entropy: Mean binary entropy of the values themselves, in nats: the lowest possible binary cross-entropy,
            0 for labels; NaN unless all values lie in [0, 1].
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
    distinct: int = 0
    column_majority: float = float("nan")
    column_entropy: float = float("nan")
    value_entropy: float = float("nan")
    deviation: float = float("nan")

    @property
    def soft(self) -> bool:
        """Whether the targets are several columns of fractions in [0, 1] rather than labels: pixels, probabilities."""
        return (
            (self.width > 1 or self.rank > 2)
            and not self.integral
            and self.distinct > 2
            and self.minimum >= 0
            and self.maximum <= 1
        )

    @property
    def binary(self) -> bool:
        """Whether all values are 0 or 1."""
        return bool(self.values) and set(self.values) <= {0.0, 1.0}

    @property
    def signed(self) -> bool:
        """Whether the values are exactly -1 and 1."""
        return set(self.values) == {-1.0, 1.0}


@dataclass(frozen=True, slots=True)
class TaskContext:
    """Model, loss, optimizer and data of a training: what is known besides its measurements.

    Attributes:
        framework: ``pytorch`` or ``keras3``.
        engine: Keras engine (``tensorflow``, ``torch``, ``jax``), else the framework.
        loss: The loss.
        optimizer: The optimizer.
        layers: All layers, in forward order.
        output_activation: Lower-case name of the activation applied to the output (``softmax``, ``sigmoid``,
            ``relu``, ``linear``, …); None if unknown.
        output_units: Size of the output's class or unit axis; None if unknown.
        output_rank: Number of dimensions of a batch of outputs, if the loss takes them unchanged; else None.
        loss_refusal: If the loss can't be computed on a first batch: shapes and types of outputs and targets, and the
            loss's error message; else empty.
        input_kind: ``values``, ``scaled`` (values that the model's first layer standardizes), ``index`` (integers for
            an embedding) or ``unknown``.
        planned_epochs: Planned length in epochs, or None.
        planned_steps: Planned length in steps, or None.
        train_rows: Number of training samples, or None.
        batch_size: Samples per batch, or None.
        dropout: Largest dropout rate of a layer, or None.
        penalized: Whether the model itself adds penalties of its weights to the loss.
        checkpoint: Whether the model's configuration names a checkpoint that it belongs to.
        managed: True inside `autotrainer.fit`.
        arrays: True if `check` got whole arrays, whose order need not be that of the training.
        input_fields: Names of the inputs that probes have tested; empty without probes.
        asked: Results of diagnostics of data and model, by name: see `autotrainer.records.facts.FACTS`.
        wrong_backward: Names of the user's functions whose backward pass is wrong, the worst first.
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
    penalized: bool = False
    checkpoint: bool = False
    managed: bool = False
    arrays: bool = False
    input_fields: tuple[str, ...] = ()
    asked: Mapping[str, float] = field(default_factory=dict, hash=False)
    wrong_backward: tuple[str, ...] = ()

    @property
    def all_frozen(self) -> bool:
        """Whether there are parameters, and none of them can be trained."""
        return any(layer.frozen for layer in self.layers) and not any(layer.parameters for layer in self.layers)

    @property
    def none_owned(self) -> bool:
        """Whether there are parameters to train, and no optimizer has any of them."""
        trainable = [layer for layer in self.layers if layer.parameters]
        return bool(trainable) and all(layer.unowned >= layer.parameters for layer in trainable)

    def kind(self, targets: TargetSummary) -> TaskKind:
        """Return the kind of task, by the targets first and the loss second."""
        if targets.count == 0 or self.loss.indirect:
            return "unknown"
        if targets.one_hot:
            return "multiclass"
        if targets.width > 1 and targets.binary and self.output_units == targets.width:
            return "multilabel"
        if targets.binary or targets.signed:
            several_units = self.output_units is not None and self.output_units > 1
            return "multiclass" if several_units and targets.binary else "binary"
        if self.loss.family == "cross_entropy":
            return "multiclass"
        enough_units = self.output_units is not None and self.output_units >= max(2, targets.classes)
        sequence = targets.integer_type and targets.width != self.output_units  # one class index per time step
        indices = targets.integral and targets.classes and targets.minimum >= 0 and (targets.width == 1 or sequence)
        if indices and (enough_units or self._classes_of_few_units(targets)):
            return "multiclass"
        if self.loss.classifies and targets.soft:
            return "regression"
        if self.loss.classifies:
            return "multilabel" if targets.width > 1 else "binary"
        probability = self.output_activation == "sigmoid" and self.output_units == 1
        if probability and self.loss.family == "custom" and targets.integral and len(targets.values) == 2:
            return "binary"  # a custom loss with labels such as 1 and 2
        return "regression"

    def _classes_of_few_units(self, targets: TargetSummary) -> bool:
        """Return whether whole numbers are class indices although the output has too few units for the classes.

        There is one for each row, and the loss is that of a classifier, and at least half of the numbers up to the
        largest one occur; or the output is a probability, and a few numbers run from 0 without a gap.
        """
        if targets.rank > 2 or targets.width != 1 or targets.classes < 3:
            return False
        if self.loss.classifies:
            return targets.maximum < 2 * targets.classes
        probability = self.output_activation in ("sigmoid", "hard_sigmoid", "softmax")
        return probability and targets.values == tuple(range(targets.classes))

    def cut(self, targets: TargetSummary) -> float:
        """Return the threshold above which a single output unit predicts the positive class."""
        if self.loss.cut is not None:
            return self.loss.cut
        return 0.0 if self.loss.expects == "logits" or targets.signed else 0.5

    def trivial_accuracy(self, targets: TargetSummary) -> float:
        """Return the accuracy of the best constant prediction, for each label by itself; NaN for regression."""
        kind = self.kind(targets)
        if kind in ("regression", "unknown"):
            return float("nan")
        independent = kind == "multilabel" or (kind == "binary" and not targets.classes)
        return targets.column_majority if independent and targets.column_majority > 0 else targets.majority

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild a context from the values of `to_dict`; unknown keys are ignored.

        Raises:
            RecordError: If a value is missing or of another type.
        """
        return rebuild(cls, values)


def correct_rows(
    outputs: NDArray[Any], targets: NDArray[Any], kind: TaskKind, *, cut: float = 0.5, class_axis: int = -1
) -> NDArray[np.float64]:
    """Return the share of correct predictions of each row.

    Args:
        outputs: Raw outputs, shape (rows, units), (rows, time, units) or, with ``class_axis=1``,
            (rows, units, time...).
        targets: Class indices, one-hot rows, labels in {0, 1} or {-1, 1}. Negative class indices are masked.
        kind: Kind of task; must be a classification task.
        cut: Threshold above which a single unit predicts the positive class.
        class_axis: Axis of the classes in ``outputs``.

    Returns:
        Shape (rows,), in [0, 1]: the mean over labels or unmasked time steps; NaN for rows that are fully masked. A
        row with an output that is not finite counts as incorrect.
    """
    correct, mask = correct_values(outputs, targets, kind, cut=cut, class_axis=class_axis)
    rows = len(outputs)
    finite = np.isfinite(outputs).reshape(rows, -1).all(axis=1)
    hits = (correct & mask).reshape(rows, -1).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(finite, hits / mask.reshape(rows, -1).sum(axis=1), 0.0)


def correct_values(
    outputs: NDArray[Any], targets: NDArray[Any], kind: TaskKind, *, cut: float = 0.5, class_axis: int = -1
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each label or time step of each row whether it is predicted correctly, and whether it counts.

    Arguments as for `correct_rows`.
    """
    rows = len(outputs)
    if outputs.ndim > 1 and outputs.shape[class_axis] > 1 and kind == "multiclass":
        predicted = np.argmax(outputs, axis=class_axis)
        one_hot = targets.shape == outputs.shape
        labels = np.argmax(targets, axis=class_axis) if one_hot else targets.reshape(predicted.shape)
        mask = np.ones(predicted.shape, bool) if one_hot else labels >= 0
    elif kind == "multiclass" and outputs.size == rows:  # a single unit can predict the classes 0 and 1 alone
        predicted = (outputs.reshape(rows, -1) > cut).astype(np.int64)
        labels = targets.argmax(axis=-1) if targets.size > rows else targets
        labels = labels.reshape(rows, 1)
        mask = labels >= 0
    else:
        predicted = outputs.reshape(rows, -1) > cut
        labels = targets.reshape(rows, -1) > 0.5 if targets.min(initial=0) >= 0 else targets.reshape(rows, -1) > 0
        mask = np.ones(np.broadcast_shapes(predicted.shape, labels.shape), bool)  # a single output predicts all labels
    return predicted == labels, mask
