"""Which output units, output activation and loss belong to a kind of task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from autotrainer.edits import Edit, SetLoss, SetOutputActivation
from autotrainer.records.task import TargetSummary, TaskContext

__all__ = ["Head", "fitting_head", "fitting_units", "keeps_loss", "with_units"]

OutputActivation = Literal["linear", "sigmoid", "softmax"]
LossName = Literal["cross_entropy", "binary_cross_entropy", "signed_logistic", "squared_error"]

_GAPS = 2
"""Class numbers up to the largest one ÷ classes that occur up to which they are indices: with more gaps they are codes,
and most units would never be trained."""

_FAMILY = {
    "cross_entropy": "cross_entropy",
    "binary_cross_entropy": "binary_cross_entropy",
    "squared_error": "squared_error",
}


@dataclass(frozen=True, slots=True)
class Head:
    """An output activation with the loss that takes its output."""

    activation: OutputActivation
    loss: LossName
    expects: Literal["logits", "probabilities", "values"]

    @property
    def edits(self) -> tuple[Edit, Edit]:
        """The edits that give a model this head."""
        return SetOutputActivation(self.activation), SetLoss(self.loss, self.expects)


def fitting_head(context: TaskContext, targets: TargetSummary) -> Head | None:
    """Return the head that fits the targets and stays in the output space of the original training.

    A model that returned logits still returns logits, and one that returned probabilities still returns
    probabilities, so that code that uses its outputs needs no change.

    Args:
        context: The training.
        targets: Its targets.

    Returns:
        The head, or None where the outputs can't fit the targets (such as one unit for three classes). Numbers
        that are not classes make a regression, whatever the present loss.
    """
    logits = context.loss.expects == "logits"
    units = context.output_units
    match context.kind(targets):
        case "multiclass":
            classes = _classes(targets)
            if units is None or units < 2 or units < classes or targets.minimum < 0:
                return None
            return (
                Head("linear", "cross_entropy", "logits")
                if logits
                else Head("softmax", "cross_entropy", "probabilities")
            )
        case "binary" if targets.signed:
            return Head("linear", "signed_logistic", "logits")
        case "binary" | "multilabel":
            if targets.minimum < 0 or targets.maximum > 1:
                return None if targets.values else Head("linear", "squared_error", "values")
            if logits:
                return Head("linear", "binary_cross_entropy", "logits")
            return Head("sigmoid", "binary_cross_entropy", "probabilities")
        case "regression":
            return Head("linear", "squared_error", "values")
    return None


def keeps_loss(head: Head, context: TaskContext, targets: TargetSummary) -> bool:
    """Return whether the present loss takes the outputs of a head."""
    loss = context.loss
    if context.kind(targets) == "regression" and not loss.classifies:
        return True
    return _FAMILY.get(loss.family) == head.loss and loss.expects in (head.expects, "values")


def fitting_units(context: TaskContext, targets: TargetSummary) -> int | None:
    """Return how many units the output needs, if it has others; None if it fits, or if that is unknown.

    One for each class, for each column of one-hot rows, of labels or of values. Units of classes that never occur do no
    harm.
    """
    units = context.output_units
    if units is None or not targets.count:
        return None
    if targets.one_hot:
        return None if targets.width == units else targets.width
    columns = _columns(context, targets)
    if context.kind(targets) == "multiclass" and columns in (1, None):
        classes = _classes(targets)
        indices = targets.integral and targets.minimum >= 0 and classes <= _GAPS * targets.classes
        return classes if indices and classes > units and classes > 2 else None
    return None if columns in (None, units) else columns


def with_units(context: TaskContext, units: int) -> TaskContext:
    """Return the context of a training whose output has another number of units."""
    return replace(context, output_units=units)


def _classes(targets: TargetSummary) -> int:
    return targets.width if targets.one_hot else int(targets.maximum) + 1


def _columns(context: TaskContext, targets: TargetSummary) -> int | None:
    """Return how many values a row of targets holds, if outputs and targets are tables whose shapes are known."""
    if context.output_rank != 2 or targets.rank > 2 or targets.rank < 1:
        return None
    return targets.width if targets.rank == 2 else 1
