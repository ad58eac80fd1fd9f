"""Which output activation and loss belong to a kind of task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autotrainer.edits import Edit, SetLoss, SetOutputActivation
from autotrainer.records.task import TargetSummary, TaskContext

__all__ = ["Head", "fitting_head"]

OutputActivation = Literal["linear", "sigmoid", "softmax"]
LossName = Literal["cross_entropy", "binary_cross_entropy", "signed_logistic", "squared_error"]


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
            classes = targets.width if targets.one_hot else int(targets.maximum) + 1
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
