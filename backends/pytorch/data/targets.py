"""Losses that convert the user's targets to another form, or weight rows by their class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotrainer.backends.pytorch.model.loss_kinds import fitted_loss_info, loss_info
from autotrainer.backends.pytorch.model.losses import WeightedLoss
from autotrainer.edits import Edit, EncodeTargets, ReshapeTargets, ScaleTargets
from autotrainer.errors import ConfigError, DataError
from autotrainer.records.task import LossInfo

__all__ = [
    "ClassWeightedLoss",
    "ConvertedLoss",
    "observed_loss",
]


class ConvertedLoss(nn.Module):
    """A loss that converts outputs and targets before it computes another loss.

    Args:
        loss: Takes the converted outputs and targets; its calls are observed.
        edits: What `autotrainer.training.data_edits.conversions` returned, with fitted numbers.
    """

    def __init__(self, loss: nn.Module, edits: Sequence[Edit]) -> None:
        super().__init__()
        self.loss = loss
        self.edits = tuple(edits)
        self.loss_info = loss_info(loss)

    def forward(self, outputs: Tensor, targets: Tensor, *weights: Tensor) -> Tensor:
        """Return the loss of a batch."""
        for edit in self.edits:
            if isinstance(edit, EncodeTargets):
                targets = _encode(outputs, targets, edit, fitted_loss_info(self.loss, outputs, targets).class_axis)
            elif isinstance(edit, ReshapeTargets):
                targets = _reshape(outputs, targets)
            elif isinstance(edit, ScaleTargets):
                outputs, targets = _scale(outputs, edit), _scale(targets.to(outputs.dtype), edit)
        value: Tensor = self.loss(outputs, targets, *weights)
        return value


def observed_loss(loss: nn.Module | None) -> nn.Module | None:
    """Return the loss whose calls are to be observed: inside a `ConvertedLoss`, that of the converted targets."""
    return loss.loss if isinstance(loss, ConvertedLoss) else loss


def _scale(values: Tensor, edit: ScaleTargets) -> Tensor:
    if edit.logarithm:
        center, scale = (values.new_tensor(numbers) for numbers in (edit.log_center, edit.log_scale))
        logarithms = torch.asinh((values - center) / torch.where(scale > 0, scale, 1.0))
        values = torch.where(scale > 0, logarithms, values)
    return (values - values.new_tensor(edit.mean)) / values.new_tensor(edit.std)


def _encode(outputs: Tensor, targets: Tensor, edit: EncodeTargets, axis: int) -> Tensor:
    to = edit.to
    if to == "zero_one":
        low, high = edit.labels
        return (targets.to(outputs.dtype) - low) / (high - low)
    if to == "signed":
        return 2 * targets.to(outputs.dtype) - 1
    classes = outputs.shape[axis] if outputs.ndim > 1 else 1
    if to == "one_hot":
        rows = outputs.movedim(axis, -1).shape[:-1]
        if targets.numel() != rows.numel():
            raise _misfit(outputs, targets)
        return F.one_hot(targets.reshape(rows).long(), classes).movedim(-1, axis).to(outputs.dtype)
    shape = outputs.movedim(axis, -1).shape[:-1]
    if targets.shape == outputs.shape and classes > 1:
        return targets.argmax(axis)
    if targets.numel() != shape.numel():
        raise _misfit(outputs, targets)
    return targets.reshape(shape).long()


def _reshape(outputs: Tensor, targets: Tensor) -> Tensor:
    if targets.numel() != outputs.numel():
        raise _misfit(outputs, targets)
    return targets.reshape(outputs.shape).to(outputs.dtype)


def _misfit(outputs: Tensor, targets: Tensor) -> DataError:
    return DataError(f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}")


class ClassWeightedLoss(WeightedLoss):
    """A loss in which each row is weighted by its class, and by its sample weight if it has one.

    Args:
        entries: The loss without reduction.
        info: What the loss computes.
        weights: Weights of class 0, 1, …; or of the labels -1 and 1.
    """

    def __init__(self, entries: nn.Module, info: LossInfo, weights: Sequence[float]) -> None:
        super().__init__(entries, info)
        self.weights = tuple(weights)

    def forward(self, outputs: Any, targets: Any, weights: Tensor | None = None) -> Tensor:
        """Return the loss of a batch."""
        classes = row_classes(targets)
        if len(self.weights) == 2:
            classes = torch.where(classes == -1, 0, classes)  # labels -1 and 1
        class_weights = torch.tensor(self.weights, device=classes.device)
        row_weights = torch.where(classes < 0, 0.0, class_weights[classes.clamp(0, len(class_weights) - 1)])
        if weights is None:
            return super().forward(outputs, targets, row_weights)
        return super().forward(outputs, targets, row_weights.reshape(-1, *[1] * (weights.ndim - 1)) * weights)


def row_classes(targets: Tensor) -> Tensor:
    """Return the label of each row as an integer; for one-hot rows, the column.

    Raises:
        ConfigError: If a row does not have a single label.
    """
    if targets.ndim == 2 and targets.shape[1] > 1 and bool((targets.sum(1) == 1).all()):
        return targets.argmax(1)
    if not targets.ndim or targets.numel() != len(targets):
        raise ConfigError("class weights need one class a row, or one-hot rows")
    flat = targets.reshape(-1)
    if flat.is_floating_point() and not bool((flat == flat.round()).all()):
        raise ConfigError("class weights need class numbers as targets; these are real numbers")
    return flat.long()
