"""Losses of managed trainings: those that `SetLoss` names, and the user's loss as a module or with sample weights."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotrainer.backends.pytorch.model.loss_kinds import class_weights, loss_info
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.edits import SetLoss
from autotrainer.errors import ConfigError, DataError
from autotrainer.records.task import LossInfo

__all__ = [
    "EditedLoss",
    "FunctionLoss",
    "TolerantLoss",
    "WeightedLoss",
    "as_module",
    "bridge",
    "plain_loss",
    "unreduced",
]

_SMALLEST = 1e-12
"""Probabilities are raised to this before their logarithm is taken."""

_EXPECTED = {
    "cross_entropy": ("logits", "probabilities", "log_probabilities"),
    "binary_cross_entropy": ("logits", "probabilities"),
    "signed_logistic": ("logits", "values", "probabilities"),
    "squared_error": ("values", "logits", "probabilities"),
    "absolute_error": ("values", "logits", "probabilities"),
}


def _shaped(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the targets in the shape and type of the outputs.

    Raises:
        DataError: If they differ in the number of values: broadcasting would pair each row with every other.
    """
    if targets.numel() != outputs.numel():
        raise DataError(f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}")
    return targets.reshape(outputs.shape).to(outputs.dtype)


def _units(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return targets in [0, 1] for each output unit; class indices become one-hot rows."""
    units = outputs.shape[-1] if outputs.ndim > 1 else 1
    if units > 1 and targets.numel() * units == outputs.numel():
        targets = F.one_hot(targets.reshape(outputs.shape[:-1]).long(), units)
    return _shaped(outputs, targets)


def _class_axis(outputs: Tensor, targets: Tensor) -> int:
    """Return the axis of the classes: 1, as in PyTorch, unless only the last axis fits the targets."""
    if targets.shape == outputs.shape:
        ones_last = bool((targets.sum(-1) == 1).all())
        return -1 if ones_last else 1
    first = outputs.shape[:1] + outputs.shape[2:]
    return 1 if targets.squeeze(-1).shape == first or targets.shape == first else -1


def _cross_entropy(outputs: Tensor, targets: Tensor, expects: str) -> Tensor:
    if outputs.ndim < 2 or outputs.shape[1:].numel() == 1:  # one unit: the score of class 1
        return _binary_cross_entropy(outputs, targets, expects)
    axis = _class_axis(outputs, targets) if outputs.ndim > 2 else 1
    scores = outputs.movedim(axis, 1)
    if expects == "probabilities":
        total = scores.sum(1, keepdim=True).clamp_min(_SMALLEST)
        logs = (scores / total).clamp_min(_SMALLEST).log()
    else:
        logs = scores if expects == "log_probabilities" else F.log_softmax(scores, 1)
    if targets.shape == outputs.shape:
        return -(logs * targets.movedim(axis, 1).to(logs.dtype)).sum(1)
    shape = logs.shape[:1] + logs.shape[2:]
    if targets.numel() != shape.numel():
        raise DataError(f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}")
    return F.nll_loss(logs, targets.reshape(shape).long(), reduction="none")


def _binary_cross_entropy(outputs: Tensor, targets: Tensor, expects: str) -> Tensor:
    labels = _units(outputs, targets)
    if expects == "logits":
        return F.binary_cross_entropy_with_logits(outputs, labels, reduction="none")
    probabilities = outputs.exp() if expects == "log_probabilities" else outputs
    return F.binary_cross_entropy(probabilities.clamp(0, 1), labels, reduction="none")


def _signed_logistic(outputs: Tensor, targets: Tensor, expects: str) -> Tensor:
    signs = _shaped(outputs, targets)
    if expects == "probabilities":
        return F.binary_cross_entropy(outputs.clamp(0, 1), (signs + 1) / 2, reduction="none")
    return F.softplus(-signs * outputs)


def _squared_error(outputs: Tensor, targets: Tensor, expects: str) -> Tensor:
    return (outputs - _shaped(outputs, targets)) ** 2


def _absolute_error(outputs: Tensor, targets: Tensor, expects: str) -> Tensor:
    return (outputs - _shaped(outputs, targets)).abs()


_ENTRIES: dict[str, Callable[[Tensor, Tensor, str], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "signed_logistic": _signed_logistic,
    "squared_error": _squared_error,
    "absolute_error": _absolute_error,
}


class EditedLoss(nn.Module):
    """The loss that a `SetLoss` names: the mean over all entries that are not masked.

    Targets are converted here from the form of the user's data: class indices of any numeric type, shape (rows,) or
    (rows, 1), one-hot rows, or labels per unit. Negative class indices are masked. Outputs have shape (rows, units),
    (rows,), or for sequences and images (rows, classes, ...) or (rows, ..., classes).

    Args:
        edit: Names the loss, and what the model's output is (``expects``).
        reduction: ``mean`` (a scalar) or ``none`` (entry by entry).

    Raises:
        ConfigError: If there is no such loss for such an output.
    """

    def __init__(self, edit: SetLoss, reduction: str = "mean") -> None:
        super().__init__()
        if edit.name not in _ENTRIES or edit.expects not in _EXPECTED[edit.name]:
            raise ConfigError(f"there is no loss {edit.name!r} over {edit.expects!r}")
        self.edit = edit
        self.reduction = reduction

    @property
    def loss_info(self) -> LossInfo:
        """What the loss computes."""
        family = "binary_cross_entropy" if self.edit.name == "signed_logistic" else self.edit.name
        forms = "either" if family == "cross_entropy" else "values"
        axis = 1 if family == "cross_entropy" else -1
        return LossInfo(self.edit.name, family, self.edit.expects, forms, axis)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch."""
        masked = self.edit.name == "cross_entropy" and targets.shape != outputs.shape
        counted = targets >= 0 if masked else torch.ones_like(targets, dtype=torch.bool)
        entries = _ENTRIES[self.edit.name](outputs, targets.clamp_min(0) if masked else targets, self.edit.expects)
        if masked:
            counted = counted.reshape(entries.shape)
            entries = torch.where(counted, entries, torch.zeros_like(entries))
        if self.reduction == "none":
            return entries
        return entries.sum() / counted.sum().clamp_min(1) if masked else entries.mean()


class UndefinedLoss(nn.Module):
    """The loss of outputs that the original loss can't be computed on: NaN, which compares with no other loss."""

    def forward(self, outputs: Tensor, targets: Tensor, *weights: Tensor) -> Tensor:
        """Return NaN."""
        return outputs.new_full((), torch.nan)


class FunctionLoss(nn.Module):
    """A loss function as a module, so that its calls can be observed like those of any loss module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    @property
    def loss_info(self) -> LossInfo:
        """What the function computes."""
        return loss_info(self.function)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return what the function returns."""
        return self.function(*args, **kwargs)


class WeightedLoss(nn.Module):
    """A loss with sample weights: the weighted mean over rows, or their steps, of the mean of each.

    Args:
        entries: The loss without reduction.
        info: What the loss computes.
    """

    def __init__(self, entries: nn.Module, info: LossInfo) -> None:
        super().__init__()
        self.entries = entries
        self.loss_info = info

    def forward(self, outputs: Any, targets: Any, weights: Tensor | None = None) -> Tensor:
        """Return the loss of a batch; ``weights`` has shape (rows,) or (rows, steps...), None for equal ones.

        Raises:
            DataError: If the loss has no value for each step that has a weight.
        """
        rows: Tensor = self.entries(outputs, targets)
        axes = 1 if weights is None else weights.ndim
        if weights is not None and rows.shape[:axes] != weights.shape:
            raise DataError(f"sample weights {tuple(weights.shape)} do not fit losses of shape {tuple(rows.shape)}")
        rows = rows.reshape(*rows.shape[:axes], -1).mean(-1)
        if weights is None:
            return rows.mean()
        return (rows * weights).sum() / weights.sum().clamp_min(_SMALLEST)


class TolerantLoss(nn.Module):
    """A loss that is NaN, instead of raising, where the outputs are not finite.

    `torch.nn.BCELoss` refuses them, which would end a diverged training with an error that does not name the cause.

    Args:
        loss: The loss.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.loss_info = loss_info(loss)

    def forward(self, outputs: Any, targets: Any, *more: Any, **options: Any) -> Tensor:
        """Return the loss of a batch."""
        try:
            value: Tensor = self.loss(outputs, targets, *more, **options)
        except RuntimeError:
            tensor = first_tensor(outputs, floating=True)
            if tensor is None or bool(torch.isfinite(tensor).all()):
                raise
            value = tensor.sum() * torch.nan
        return value


def plain_loss(loss: nn.Module | None) -> nn.Module | None:
    """Return the loss inside `TolerantLoss` and `WeightedLoss`."""
    loss = loss.loss if isinstance(loss, TolerantLoss) else loss
    return loss.entries if isinstance(loss, WeightedLoss) else loss


def bridge(trained: LossInfo, original: LossInfo) -> Callable[[Tensor], Tensor] | None:
    """Return the conversion of outputs trained with one loss into what the original loss takes.

    Args:
        trained: The loss that is minimized.
        original: The loss of the user.

    Returns:
        A function of outputs; None if the original loss takes them unchanged.
    """
    probabilities = ("probabilities", "log_probabilities")
    if original.expects not in probabilities or trained.expects == original.expects:
        return None
    if trained.expects not in ("logits", *probabilities):
        return None

    def convert(outputs: Tensor) -> Tensor:
        several = outputs.ndim > 1 and outputs.shape[1] > 1
        if trained.expects == "logits":
            chances = outputs.softmax(1) if several and trained.family == "cross_entropy" else outputs.sigmoid()
        else:
            chances = outputs.exp() if trained.expects == "log_probabilities" else outputs
        return chances if original.expects == "probabilities" else chances.clamp_min(_SMALLEST).log()

    return convert


def as_module(loss: Any) -> nn.Module:
    """Return a loss module or function as a module."""
    return loss if isinstance(loss, nn.Module) else FunctionLoss(loss)


def unreduced(loss: Any, *, balanced: bool = False) -> nn.Module:
    """Return a loss without reduction: one value per entry, as sample weights need.

    Args:
        loss: The loss.
        balanced: Whether to leave out its weights of classes.

    Raises:
        ConfigError: If the loss has no ``reduction`` to set to ``none``.
    """
    if isinstance(loss, FunctionLoss):
        loss = loss.function
    if isinstance(loss, nn.Module):
        if isinstance(getattr(loss, "reduction", None), str):
            entries = copy.deepcopy(loss)
            entries.reduction = "none"  # type: ignore[assignment]  # an attribute of PyTorch's losses
            if balanced and class_weights(entries) is not None:
                setattr(entries, "pos_weight" if isinstance(entries, nn.BCEWithLogitsLoss) else "weight", None)
            return entries
    elif "reduction" in _parameters(loss):
        return FunctionLoss(functools.partial(loss, reduction="none"))
    raise ConfigError(
        f"sample weights need a loss with a reduction to switch off, and {type(loss).__name__} has none: give a loss "
        "module of torch, a function with reduction=, or step="
    )


def _parameters(function: Any) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()
