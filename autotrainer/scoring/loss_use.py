"""What a custom loss does with outputs and targets, measured: whether it compares them row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.monitoring.summary import DataSummary
from autotrainer.output import logger
from autotrainer.records.data import ArrayData, arrays_of, finite_rows
from autotrainer.records.signals import Floats
from autotrainer.records.task import LossInfo, TargetSummary, TaskContext

__all__ = ["LossValue", "carried_over", "measured_rows", "with_measured_loss"]

_ROWS, _VALUES = 128, 1 << 20
"""Rows that a loss is measured on, and values of their inputs and targets, at most."""
_MOST_VALUES = 1 << 23
"""Outputs, at most, in place of which others are tried: the first batch of a loader may be large."""
_MIN_ROWS = 8
"""Fewest rows: a loss over groups or pairs of rows shows nothing on less."""
_SAME = 1e-6
"""Relative difference of losses up to which they are equal but for rounding."""
_NEAR = 0.99
"""Share of the way from the mean to the targets at which outputs are near these: logarithms of 0 are left out."""
_LEAST_R2 = -0.25
"""R² of a loss's best constant below which it does not aim at the middle of the targets: that of their median is above,
in most distributions; that of the 75 % quantile of a normal one is -0.45."""
_QUANTILES = np.linspace(0.05, 0.95, 10)
_CLASS_SHARE = 0.8
"""Output of the true class, of 1 in all."""
_SHIFTS = 3
"""Wrong classes, at most, that the true class is compared with."""

LossValue = Callable[[NDArray[Any] | None, NDArray[Any]], float]
"""The loss of outputs (None: those of the model) and targets, of the same rows and with the same random numbers."""


def measured_rows(train: ArrayData) -> ArrayData:
    """Return the training rows that a loss is measured on: random ones, as neighbours may be of one class."""
    values = sum(math.prod(array.shape[1:]) for array in (*arrays_of(train.inputs), train.targets))
    count = max(_MIN_ROWS, min(_ROWS, _VALUES // max(1, values)))
    drawn = train.take(np.random.default_rng(0).permutation(train.rows)[: 2 * count])
    return drawn.take(finite_rows(drawn)[:count])


def with_measured_loss(
    context: TaskContext, loss: LossValue, outputs: NDArray[Any], targets: NDArray[Any], *, single: bool
) -> TaskContext:
    """Return the context with what is measured of a custom loss: see `LossInfo.indirect`.

    Outputs near the targets must have a lower loss than all others that are tried, if a score such as R² or accuracy is
    to judge the model: not so for logarithms of a rate, ranks, hazards, or quantiles far from the median.

    Args:
        context: The training.
        loss: The loss.
        outputs: Outputs of the model, the predictions if there are several.
        targets: Targets of the same rows.
        single: Whether these outputs are all that the loss gets: others can then be tried.
    """
    if context.loss.family != "custom" or len(targets) < _MIN_ROWS or targets.dtype.kind not in "biuf":
        return context
    value = _tolerant(loss)
    with np.errstate(all="ignore"):
        if _ignores(value, outputs, targets, single=single):
            return replace(context, loss=replace(context.loss, indirect=True, ignores_targets=True))
        tried = single and outputs.size <= _MOST_VALUES
        measured = _measured(context, value, outputs, targets) if tried else context.loss
    return replace(context, loss=measured)


def carried_over(context: TaskContext, original: TaskContext) -> TaskContext:
    """Return the context of an edited training with what is measured of the original loss, if it is trained on that."""
    loss = original.loss
    if context.loss.family != "custom":
        return context
    measured = replace(context.loss, indirect=loss.indirect, ignores_targets=loss.ignores_targets, cut=loss.cut)
    return replace(context, loss=measured)


def _measured(context: TaskContext, value: LossValue, outputs: NDArray[Any], targets: NDArray[Any]) -> LossInfo:
    if outputs.size == targets.size and outputs.shape != targets.shape:
        # Those that broadcast, so that the loss compares every output with every target, are a mismatch to be mended.
        shaped = targets.reshape(outputs.shape)
        if (info := _measured(context, value, outputs, shaped)) == context.loss:
            return info
    summary = DataSummary()
    summary.add_targets(targets)
    kind, info = context.kind(summary.targets), context.loss
    if kind == "multiclass" and outputs.ndim == 2 and outputs.shape[1] > 1:
        return replace(info, indirect=_knows_no_classes(value, outputs, targets, one_hot=summary.targets.one_hot))
    if kind in ("binary", "multilabel") and outputs.size == targets.size:
        info = _of_labels(info, value, outputs, targets, summary.targets)
        return replace(info, cut=None) if _are_probabilities(context, outputs) else info
    broadcast = outputs.ndim == targets.ndim == 2 and outputs.shape[1] == 1
    if kind == "regression" and (outputs.size == targets.size or broadcast):
        return replace(info, indirect=not _aims_at(value, outputs, targets))
    return info


def _tolerant(loss: LossValue) -> LossValue:
    """Return the loss with NaN for what it refuses."""

    def value(outputs: NDArray[Any] | None, targets: NDArray[Any]) -> float:
        try:
            return loss(outputs, targets)
        except Exception as error:  # noqa: BLE001 - the user's loss, on outputs or targets that it need not take
            logger.debug("a custom loss does not take what it is tried with: %r", error)
            return math.nan

    return value


def _ignores(value: LossValue, outputs: NDArray[Any], targets: NDArray[Any], *, single: bool) -> bool:
    """Return whether the loss of the model's outputs is the same to the bit, whatever the targets are."""
    generator, given = np.random.default_rng(0), None
    if not (outputs.reshape(len(outputs), -1) != outputs.reshape(len(outputs), -1)[:1]).any():
        if not single:  # of equal outputs, as of zero weights, other losses are the same, too
            return False
        given = generator.uniform(0.1, 0.9, outputs.shape).astype(outputs.dtype)
    own = value(given, targets)
    if not math.isfinite(own):
        return False
    order = generator.permutation(len(targets))
    least, most = targets.min(), targets.max()
    others = [targets[order], np.repeat(targets[:1], len(targets), axis=0), np.repeat(targets[-1:], len(targets), 0)]
    if targets.dtype.kind == "b":
        others.append(~targets)
    elif least == most or targets.dtype.kind == "f":
        others.append(targets + targets.dtype.type(max(1, most - least)))
    else:
        others.append((least + most - targets).astype(targets.dtype))
    if not all(value(given, other) == own for other in others):
        return False
    if not single or outputs.size != targets.size:
        return True
    # Far from large targets, a relative error is 1 but for rounding, whatever these are.
    near = targets.reshape(outputs.shape).astype(outputs.dtype)
    own = value(near, targets)
    return not math.isfinite(own) or all(value(near, other) == own for other in others)


def _aims_at(value: LossValue, outputs: NDArray[Any], targets: NDArray[Any]) -> bool:
    """Return whether real outputs are best near the targets, and constant ones near their middle."""
    columns = np.asarray(targets, np.float64).reshape(len(targets), -1)
    if outputs.size != targets.size:  # each column is compared with the only output
        columns = columns.mean(axis=1, keepdims=True)
    mean, spread = columns.mean(axis=0), columns.std(axis=0)
    if not (spread > 0).any():
        return True

    def loss(estimates: Floats) -> float:
        shape = np.broadcast_to(estimates, columns.shape).reshape(outputs.shape)
        return value(shape.astype(outputs.dtype), targets)

    near = mean + _NEAR * (columns - mean)
    least = loss(near)
    if not math.isfinite(least):
        return not math.isfinite(value(None, targets))  # else only other outputs have a loss
    if any(loss(other) <= least + _SAME * abs(least) for other in _others(near, mean, spread)):
        return False
    constants = [mean, *np.quantile(columns, _QUANTILES, axis=0)]
    losses = np.array([loss(constant) for constant in constants])
    if not np.isfinite(losses).any() or np.nanmax(losses) - np.nanmin(losses) <= _SAME * abs(np.nanmin(losses)):
        return True  # a loss over all rows, such as a correlation, is undefined or the same for constants
    used = spread > 0
    best = constants[int(np.nanargmin(losses))]
    return bool(-np.mean(((best - mean)[used] / spread[used]) ** 2) >= _LEAST_R2)


def _others(near: Floats, mean: Floats, spread: Floats) -> Iterator[Floats]:
    """Yield outputs that are farther from the targets: towards their mean and beyond, shifted, scaled, permuted."""
    for share in (0.5, 1.5):
        yield mean + share * (near - mean)
    for share in (-2.0, -0.5, 0.5, 2.0):
        yield near + share * spread
    for factor in (0.5, 2.0):
        yield near * factor
    yield near[np.random.default_rng(0).permutation(len(near))]


def _knows_no_classes(value: LossValue, outputs: NDArray[Any], targets: NDArray[Any], *, one_hot: bool) -> bool:
    """Return whether high outputs of the true classes have no lower loss than those of other classes."""
    units = outputs.shape[1]
    classes = (targets.argmax(axis=-1) if one_hot else targets).reshape(-1).astype(np.int64)
    if len(classes) != len(outputs) or classes.min() < 0 or classes.max() >= units:
        return False
    scores = np.full(outputs.shape, (1 - _CLASS_SHARE) / (units - 1), outputs.dtype)
    scores[np.arange(len(scores)), classes] = _CLASS_SHARE
    least = value(scores, targets)
    others = [value(np.roll(scores, shift, axis=1), targets) for shift in range(1, min(units, _SHIFTS + 1))]
    return math.isfinite(least) and any(other <= least + _SAME * abs(least) for other in others)


def _are_probabilities(context: TaskContext, outputs: NDArray[Any]) -> bool:
    """Return whether outputs are none below 0 and none above 1, as those of a sigmoid: 0 is then no place to cut them.

    The overlap of probabilities is also better with -1 than with 0, which no output can be.
    """
    inside = (outputs >= 0) & (outputs <= 1)
    return context.output_activation != "linear" and bool(inside.all() and outputs.any())


def _of_labels(
    info: LossInfo, value: LossValue, outputs: NDArray[Any], targets: NDArray[Any], summary: TargetSummary
) -> LossInfo:
    """Return the loss with what is measured on labels with one output each."""
    labels = np.asarray(targets, np.float64).reshape(outputs.shape)
    least, most = labels.min(), labels.max()
    if least == most:
        return info
    high = labels > (least + most) / 2

    def loss(negative: float, positive: float) -> float:
        return value(np.where(high, positive, negative).astype(outputs.dtype), targets)

    right, wrong = loss(0.1, 0.9), loss(0.9, 0.1)
    shifted = [loss(0.1 + shift, 0.9 + shift) for shift in (-1.0, 1.0)]
    ranks = all(math.isclose(other, right, rel_tol=_SAME, abs_tol=_SAME) for other in shifted)
    if math.isfinite(right) and (wrong <= right or ranks):
        return replace(info, indirect=True)
    if summary.binary and loss(-1.0, 1.0) < loss(0.0, 1.0):  # a probability would have to be 0
        return replace(info, cut=0.0)
    return info
