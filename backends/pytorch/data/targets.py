"""Targets in another form for the loss than the user's, and what is fitted on them: scale, classes, weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from autotrainer.backends.pytorch.data.batches import Batches
from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.backends.pytorch.model.losses import WeightedLoss
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state
from autotrainer.edits import Edit, EncodeTargets, ReshapeTargets, ScaleTargets, SetLoss
from autotrainer.errors import ConfigError, DataError
from autotrainer.records.task import MASKED, LossInfo

__all__ = [
    "ClassWeightedLoss",
    "ConvertedLoss",
    "class_counts",
    "class_weights",
    "conversions",
    "labels_of",
    "seen_loss",
]


def conversions(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """Return the edits that convert targets, in the order in which they do: encoded, reshaped, standardized.

    A loss that `SetLoss` names takes targets of any form by itself.
    """
    found = list(edits)
    kinds: tuple[type[Edit], ...] = (EncodeTargets, ReshapeTargets, ScaleTargets)
    kinds = kinds[2:] if any(isinstance(edit, SetLoss) for edit in found) else kinds
    return tuple(edit for kind in kinds for edit in found if isinstance(edit, kind))


class ConvertedLoss(nn.Module):
    """A loss that gets outputs and targets in another form than model and data give them.

    Args:
        loss: Takes the converted ones, and is what is observed.
        edits: What `conversions` returned, with fitted numbers.
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
        raise ConfigError("weights of classes take one class a row, or one-hot rows")
    flat = targets.reshape(-1)
    if flat.is_floating_point() and not bool((flat == flat.round()).all()):
        raise ConfigError("weights of classes take classes as targets; these are real numbers")
    return flat.long()


def class_counts(batches: Batches) -> NDArray[np.int64]:
    """Return how many rows of class 0, 1, … (of -1 and 1) there are; read once, leaving random states as they were.

    Raises:
        ConfigError: If rows have no single class.
    """
    counts = Counter[int]()
    with preserve_random_state():
        for batch in batches.read():
            counts.update(row_classes(batch.targets).tolist())
    del counts[MASKED]
    if set(counts) == {-1, 1}:
        return np.array([counts[-1], counts[1]])
    if min(counts, default=0) < 0:
        raise ConfigError(f"a class can't have the number {min(counts)}")
    return np.array([counts[label] for label in range(max(counts, default=-1) + 1)])


def class_weights(counts: NDArray[np.int64]) -> tuple[float, ...]:
    """Return rows ÷ (classes × rows of the class) for each class, as King and Zeng 2001; 0 for one that never occurs.

    Raises:
        ConfigError: If there are less than two classes.
    """
    present = counts > 0
    if present.sum() < 2:
        raise ConfigError("the training data hold a single class")
    weights = np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 0.0)
    return tuple(weights.tolist())


def labels_of(batches: Batches) -> tuple[int, ...]:
    """Return the class numbers that occur, in order; read once, leaving every random state as it was.

    Raises:
        ConfigError: If targets are no class numbers from 0 on.
    """
    found: set[float] = set()
    with preserve_random_state():
        for batch in batches.read():
            found.update(batch.targets.unique().tolist())
    found.discard(MASKED)
    if not found or any(label < 0 or label != int(label) for label in found):
        raise ConfigError("the targets are no class numbers from 0 on")
    return tuple(sorted(int(label) for label in found))
