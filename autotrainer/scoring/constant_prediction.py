"""Constant predictions: outputs that are the same for every row, the least that a model has to beat."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.spec import Evaluation
from autotrainer.records.signals import Floats
from autotrainer.records.task import LossInfo, TargetSummary, TaskContext

__all__ = ["constant_loss", "constant_outputs", "mean_output"]

_LEAST = 1e-6
"""Smallest probability of a constant prediction, so that its logarithm is finite."""
_CLASSES = 32
"""Maximum number of classes or columns of which each is predicted for all rows by one constant prediction."""


def constant_outputs(
    evaluation: Evaluation, targets: TargetSummary, context: TaskContext, *, accuracy: bool = False
) -> list[Floats]:
    """Return outputs of constant predictions for one row, in the form of a model's outputs, that the targets suggest.

    Args:
        evaluation: Outputs and targets of a model, masked class indices negative.
        targets: Summary of the targets of the training.
        context: The training.
        accuracy: Whether they are scored by accuracy: of several classes, only the most frequent one then matters.

    Returns:
        Frequencies of the classes, means or medians of the targets, as the loss expects them (their logarithms, or
        log-odds); each class by itself.
    """
    outputs = np.asarray(evaluation.outputs)
    if not len(outputs):
        return []
    constants = _from_targets(outputs, np.asarray(evaluation.targets), targets, context, accuracy=accuracy)
    return [constant for constant in constants if np.isfinite(constant).all()]


def mean_output(evaluation: Evaluation) -> list[Floats]:
    """Return the mean of a model's outputs, another constant prediction; nothing if it is not finite."""
    outputs = np.asarray(evaluation.outputs)
    mean = outputs.mean(axis=0, dtype=np.float64) if len(outputs) else np.array(math.nan)
    return [mean] if np.isfinite(mean).all() else []


def _from_targets(
    outputs: NDArray[Any], labels: NDArray[Any], targets: TargetSummary, context: TaskContext, *, accuracy: bool
) -> Iterable[Floats]:
    """Return constant outputs of one row."""
    axis = context.loss.class_axis if outputs.ndim > 2 else -1
    units = outputs.shape[axis] if outputs.ndim > 1 else 1
    kind = TaskContext(
        loss=context.loss, output_units=context.output_units or units, output_activation=context.output_activation
    ).kind(targets)
    if kind == "multiclass" and units > 1:
        return _classes(outputs, labels, axis, context.loss, accuracy=accuracy)
    if kind == "multiclass" and not targets.binary and labels.size == outputs.size == len(outputs):
        # A single unit can't predict most of them, but the output of an attempt may have a unit for each.
        counts = np.bincount(labels.reshape(-1)[labels.reshape(-1) >= 0].astype(np.int64))
        return [counts / max(1, counts.sum())]
    columns = labels.reshape(len(labels), -1)
    if columns.size != outputs.size:
        return ()
    shape = outputs.shape[1:]
    if kind in ("binary", "multilabel", "multiclass"):
        low, high = _labels(targets)
        cut = context.cut(targets)
        share = ((columns > (low + high) / 2).mean(axis=0)).reshape(shape)
        likely = _expected(share, context.loss, signed=targets.signed)
        return (
            likely,
            np.where(share > 0.5, cut + 0.5, cut - 0.5),
            np.full(shape, cut + 0.5),
            np.full(shape, cut - 0.5),
        )
    means = columns.mean(axis=0, dtype=np.float64), np.median(columns, axis=0).astype(np.float64)
    return [_expected(mean.reshape(shape), context.loss) for mean in means]


def _classes(outputs: NDArray[Any], labels: NDArray[Any], axis: int, loss: LossInfo, *, accuracy: bool) -> list[Floats]:
    units = outputs.shape[axis]
    if labels.shape == outputs.shape and not accuracy:
        share = labels.mean(axis=tuple(set(range(labels.ndim)) - {axis % labels.ndim}), dtype=np.float64)
    else:
        flat = (labels.argmax(axis=axis) if labels.shape == outputs.shape else labels).reshape(-1)
        flat = flat[(flat >= 0) & (flat < units)].astype(np.int64, copy=False)
        share = np.bincount(flat, minlength=units) / max(1, len(flat))
    vectors = [share] if loss.expects not in ("logits", "log_probabilities") else [np.log(np.maximum(share, _LEAST))]
    if units <= _CLASSES and not accuracy:
        single = np.maximum(np.eye(units), _LEAST)
        vectors += list(np.log(single) if loss.expects in ("logits", "log_probabilities") else single)
    form = [1] * (outputs.ndim - 1)
    form[axis if axis < 0 else axis - 1] = units
    return [np.broadcast_to(vector.reshape(form), outputs.shape[1:]) for vector in vectors]


def _labels(targets: TargetSummary) -> tuple[float, float]:
    """Return the two labels of a binary task."""
    if len(targets.values) == 2:
        return targets.values[0], targets.values[1]
    return (-1.0, 1.0) if targets.signed else (0.0, 1.0)


def _expected(mean: Floats, loss: LossInfo, *, signed: bool = False) -> Floats:
    """Return the outputs with which a loss is told this mean of the targets."""
    if signed:
        return 2 * mean - 1
    if loss.expects == "logits" and loss.family == "binary_cross_entropy":
        share = np.clip(mean, _LEAST, 1 - _LEAST)
        return np.log(share / (1 - share))
    if loss.expects in ("log_values", "log_probabilities"):
        return np.log(np.maximum(mean, _LEAST))
    return mean


def constant_loss(loss: LossInfo, targets: TargetSummary) -> float:
    """Return the mean loss of the best constant prediction, by the summary of the targets.

    Args:
        loss: The loss.
        targets: Summary of the targets that it is compared on, or of the same distribution.

    Returns:
        Variance, or entropy in nats; NaN for losses of which it is unknown, among them those that are not plain.
    """
    if not loss.plain or loss.mixes_classes(targets):
        return math.nan
    if loss.family == "squared_error" and loss.expects in ("values", "probabilities"):
        return targets.variance
    if loss.family == "binary_cross_entropy":
        return targets.column_entropy
    return targets.entropy if loss.family == "cross_entropy" and not targets.masked else math.nan
