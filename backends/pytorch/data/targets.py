"""Losses that take targets in another form than the user's, or weigh rows by their class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.backends.pytorch.model.losses import WeightedLoss
from autotrainer.edits import Edit, EncodeTargets, ReshapeTargets, ScaleTargets
from autotrainer.errors import ConfigError, DataError
from autotrainer.records.task import LossInfo

__all__ = [
    "ClassWeightedLoss",
    "ConvertedLoss",
    "seen_loss",
]


class ConvertedLoss(nn.Module):
    """A loss that gets outputs and targets in another form than model and data give them.

    Args:
        loss: Takes the converted ones, and is what is observed.
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
                targets = _encoded(outputs, targets, edit, self.loss_info.class_axis)
            elif isinstance(edit, ReshapeTargets):
                targets = _reshaped(outputs, targets)
            elif isinstance(edit, ScaleTargets):
                mean, std = (outputs.new_tensor(numbers) for numbers in (edit.mean, edit.std))
                outputs, targets = (outputs - mean) / std, (targets.to(outputs.dtype) - mean) / std
        value: Tensor = self.loss(outputs, targets, *weights)
        return value


def seen_loss(loss: nn.Module | None) -> nn.Module | None:
    """Return the loss whose calls are to be observed: that which takes targets as they are converted."""
    return loss.loss if isinstance(loss, ConvertedLoss) else loss


def _encoded(outputs: Tensor, targets: Tensor, edit: EncodeTargets, axis: int) -> Tensor:
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
    wanted = outputs.movedim(axis, -1).shape[:-1]
    if targets.shape == outputs.shape and classes > 1:
        return targets.argmax(axis)
    if targets.numel() != wanted.numel():
        raise _misfit(outputs, targets)
    return targets.reshape(wanted).long()


def _reshaped(outputs: Tensor, targets: Tensor) -> Tensor:
    if targets.numel() != outputs.numel():
        raise _misfit(outputs, targets)
    return targets.reshape(outputs.shape).to(outputs.dtype)


def _misfit(outputs: Tensor, targets: Tensor) -> DataError:
    return DataError(f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}")


class ClassWeightedLoss(WeightedLoss):
    """A loss in which each row counts as much as its class, and as its own weight where it has one.

    Args:
        entries: The loss without reduction.
        info: What the loss computes.
        weights: Of class 0, 1, …; of -1 and 1.
    """

    def __init__(self, entries: nn.Module, info: LossInfo, weights: Sequence[float]) -> None:
        super().__init__(entries, info)
        self.weights = tuple(weights)

    def forward(self, outputs: Any, targets: Any, weights: Tensor | None = None) -> Tensor:
        """Return the loss of a batch."""
        classes = row_classes(targets)
        if len(self.weights) == 2:
            classes = torch.where(classes == -1, 0, classes)  # labels -1 and 1
        known = torch.tensor(self.weights, device=classes.device)
        own = torch.where(classes < 0, 0.0, known[classes.clamp(0, len(known) - 1)])
        return super().forward(outputs, targets, own if weights is None else own * weights)


def row_classes(targets: Tensor) -> Tensor:
    """Return the label of each row as a whole number; that of one-hot rows is their column.

    Raises:
        ConfigError: If rows have no single label.
    """
    if targets.ndim == 2 and targets.shape[1] > 1 and bool((targets.sum(1) == 1).all()):
        return targets.argmax(1)
    if not targets.ndim or targets.numel() != len(targets):
        raise ConfigError("class weights need one class a row, or one-hot rows")
    flat = targets.reshape(-1)
    if flat.is_floating_point() and not bool((flat == flat.round()).all()):
        raise ConfigError("class weights need class numbers as targets; these are real numbers")
    return flat.long()
