"""Selects the metric: the user's choice, or the one that fits targets and loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.callables import check_callable
from autotrainer.adapter.spec import Evaluation
from autotrainer.edits.base import checked, shorten
from autotrainer.errors import ConfigError, DataError, InputError, nearest
from autotrainer.output import logger
from autotrainer.records.output_ranges import domain_violation
from autotrainer.records.signals import Floats
from autotrainer.records.task import MASKED, LossInfo, TargetSummary, TaskContext, TaskKind, correct_rows
from autotrainer.scoring.metrics import BalancedMetric, LossMetric, Metric, Mode, RowMetric, WholeMetric

__all__ = ["MetricSelection", "accuracy_metric", "balanced_metric", "class_weights", "estimates_targets", "r2_metric"]

_MIN_ROW_R2 = -1e12
"""Lower limit of the R² of one row: keeps finite predictions of a diverged model summable."""


class MetricSelection:
    """The user's choice of a metric, checked; `select` returns the `Metric` once targets and outputs are known.

    Args:
        metric: ``auto``, a name in `NAMES`, or a callable(y_true, y_pred) on NumPy arrays.
        mode: ``max``, ``min``, or None for the default of the metric.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: If the name is unknown, or the mode contradicts the metric.
    """

    NAMES: ClassVar[dict[str, Mode]] = {
        "accuracy": "max",
        "balanced_accuracy": "max",
        "r2": "max",
        "auc": "max",
        "loss": "min",
        "mse": "min",
        "mae": "min",
    }

    def __init__(self, metric: Any = "auto", mode: Any = None, seed: int = 0) -> None:
        mode = checked("mode", mode, Mode | None)
        if isinstance(metric, str):
            if metric != "auto" and metric not in self.NAMES:
                raise ConfigError(f"unknown metric {shorten(metric)}: {nearest(metric, ['auto', *self.NAMES])}")
            default = self.NAMES.get(metric, "max")
            if mode not in (None, default):
                raise ConfigError(f"metric {metric!r} has mode {default!r}; omit mode, or pass a callable metric")
        else:
            check_callable("metric", metric, "y_true", "y_pred")
        self._metric, self._mode, self._seed = metric, mode, seed

    def select(self, context: TaskContext, targets: TargetSummary, evaluation: Evaluation) -> Metric:
        """Return the metric.

        Args:
            context: The original training.
            targets: Summary of its targets.
            evaluation: A first evaluation, for the shapes of outputs and targets.

        Raises:
            InputError: If the metric does not fit the outputs or targets.
            DataError: If the validation targets hold a single class.
        """
        name = self._metric
        if not len(evaluation.outputs):  # PyTorch: a ``step`` that returns the loss alone
            if name not in ("auto", "loss"):
                raise InputError(
                    f"metric {name!r} needs outputs and targets: return (loss, outputs, targets) from step"
                )
            return LossMetric("loss", "min") if name == "loss" else LossMetric("negative loss", "max")
        if callable(name):
            label = getattr(name, "__name__", type(name).__name__)
            return WholeMetric(label, self._mode or "max", name, self._seed)
        if name == "loss" and (reason := domain_violation(context, targets)):
            substitute = _automatic(context, targets, evaluation)
            if not isinstance(substitute, LossMetric):
                logger.warning(
                    "metric %r is replaced by %r, as losses can't be compared: %s", name, substitute.name, reason
                )
                return substitute
        if name == "auto":
            automatic = _automatic(context, targets, evaluation)
            if automatic.name == "accuracy":
                _check_classes(targets, evaluation)
            return automatic
        if name == "loss":
            return LossMetric("loss", "min")
        if name == "auc":
            return WholeMetric("auc", "max", _auc, self._seed, perfect=1.0)
        metric: RowMetric | None
        if name == "accuracy":
            metric = accuracy_metric(context, targets, evaluation)
        elif name == "balanced_accuracy":
            metric = balanced_metric(context, targets, evaluation)
        elif name == "r2":
            metric = r2_metric(evaluation, context.loss)
        else:
            metric = _error_metric(name, np.square if name == "mse" else np.abs)
        if metric is not None and _fits(metric, evaluation):
            if name in ("accuracy", "balanced_accuracy"):
                _check_classes(targets, evaluation)
            return metric
        raise InputError(
            f"metric {name!r} does not fit targets of shape {evaluation.targets.shape} and outputs of shape "
            f"{evaluation.outputs.shape}: choose another metric, or pass a callable(y_true, y_pred)"
        )


def accuracy_metric(context: TaskContext, targets: TargetSummary, evaluation: Evaluation) -> RowMetric | None:
    """Return the accuracy in the original target space, or None if the task is not a classification."""
    axis = context.loss.class_axis if evaluation.outputs.ndim > 2 else -1
    task = _task(context, evaluation)
    kind: TaskKind = task.kind(targets)
    if kind in ("regression", "unknown") or (kind != "multiclass" and _are_continuous(targets)):
        return None
    cut = task.cut(targets)
    class_labels = kind == "multiclass" or not (targets.binary or targets.signed or targets.values == ())
    two_labels = kind == "binary" and len(targets.values) == 2

    def rows(evaluation: Evaluation) -> tuple[Floats, Floats | None]:
        outputs, labels = np.asarray(evaluation.outputs), evaluation.targets
        if class_labels and outputs.size == len(outputs):  # a single unit can predict two labels only
            low, high = targets.values if two_labels else (0.0, 1.0)
            classes = labels.argmax(axis=-1) if targets.one_hot else labels
            correct = np.where(outputs.reshape(-1) > cut, high, low) == classes.reshape(-1)
            return np.where(np.isfinite(outputs.reshape(-1)), correct, False).astype(np.float64), None
        if kind != "multiclass" and outputs.size != labels.size:
            raise ValueError("outputs and labels have different sizes")
        scores = correct_rows(outputs, labels, kind, cut=cut, class_axis=axis)
        sequence = kind == "multiclass" and labels.ndim > 1 and labels.shape != outputs.shape
        if not sequence or labels.size == len(labels):
            return scores, None
        unmasked = (labels.reshape(len(scores), -1) >= 0).sum(axis=1)
        return scores, unmasked.astype(np.float64)

    return RowMetric("accuracy", "max", rows)


def _task(context: TaskContext, evaluation: Evaluation) -> TaskContext:
    """Return what decides on the kind of task."""
    axis = context.loss.class_axis if evaluation.outputs.ndim > 2 else -1
    units = context.output_units or (evaluation.outputs.shape[axis] if evaluation.outputs.ndim > 1 else 1)
    return TaskContext(loss=context.loss, output_units=units, output_activation=context.output_activation)


def balanced_metric(context: TaskContext, targets: TargetSummary, evaluation: Evaluation) -> RowMetric | None:
    """Return the mean over classes of the share of their rows that are recognized; None if rows have no single class.

    Args:
        context: The original training.
        targets: Summary of its targets.
        evaluation: Outputs and targets, for their shapes.
    """
    kind = _task(context, evaluation).kind(targets)
    accuracy = accuracy_metric(context, targets, evaluation) if kind in ("multiclass", "binary") else None
    if accuracy is None or class_weights(evaluation.targets, targets) is None:
        return None

    def rows(evaluation: Evaluation) -> tuple[Floats, Floats | None]:
        return accuracy.score_rows(evaluation), class_weights(evaluation.targets, targets)

    return BalancedMetric("balanced_accuracy", "max", rows)


def class_weights(labels: NDArray[Any], targets: TargetSummary) -> Floats | None:
    """Return weights of rows with which all classes count alike, 1 ÷ rows of the class; None unless each row has one.

    Args:
        labels: Targets, masked class indices negative.
        targets: Summary of the targets.
    """
    one_hot = targets.one_hot and labels.ndim == 2
    if not one_hot and labels.size != len(labels):
        return None
    classes = labels.argmax(axis=1) if one_hot else labels.reshape(-1)
    _, index, counts = np.unique(classes, return_inverse=True, return_counts=True)
    weights: Floats = np.where(classes == MASKED, 0.0, 1 / counts[index.reshape(-1)])
    return weights


def _are_continuous(targets: TargetSummary) -> bool:
    """Return whether targets can't be binary labels, such as prices under a binary cross-entropy."""
    return not targets.values and not 0 <= targets.minimum <= targets.maximum <= 1


_ROUNDING = 0.01
"""Relative difference of two means up to which they are of the same values, in batches of unequal sizes."""
_MANY_OUTPUTS = 16
"""Outputs from which they are taken for values of one kind, such as pixels or time steps."""


def r2_metric(evaluation: Evaluation, loss: LossInfo | None = None) -> RowMetric | None:
    """Return R² against the mean of the validation targets, or None if it is undefined.

    It is averaged over outputs, which may have different units; of many outputs, such as pixels, it is the share of
    their whole variance, as single ones may hardly vary.

    Args:
        evaluation: Outputs and targets.
        loss: If it is a binary cross-entropy of logits, R² is that of the probabilities.
    """
    varying = _columns(evaluation.targets).var(axis=0) > 0
    if not varying.any() or not (evaluation.outputs.size == evaluation.targets.size or _is_broadcast(evaluation)):
        return None
    logits = loss is not None and loss.family == "binary_cross_entropy" and loss.expects == "logits"
    logits &= bool(evaluation.targets.min() >= 0 and evaluation.targets.max() <= 1)  # others are no probabilities

    def rows(evaluation: Evaluation) -> tuple[Floats, Floats | None]:
        targets = _columns(evaluation.targets)
        outputs = np.asarray(evaluation.outputs, np.float64)
        outputs = outputs if _is_broadcast(evaluation) else outputs.reshape(targets.shape)
        scale = targets.var(axis=0)
        used = varying & (scale > 0)
        with np.errstate(all="ignore"):
            estimates = np.exp(-np.logaddexp(0.0, -outputs)) if logits else outputs
            errors = (estimates - targets) ** 2
            errors = errors if errors.shape == targets.shape else errors.mean(axis=1, keepdims=True)
            share = scale[used] if used.sum() < _MANY_OUTPUTS else scale[used].mean()
            scores = 1 - (errors[:, used] / share).mean(axis=1)
        scores = np.maximum(np.nan_to_num(scores, nan=_MIN_ROW_R2, neginf=_MIN_ROW_R2), _MIN_ROW_R2)
        return np.where(np.isfinite(outputs).all(axis=1), scores, -1.0), None

    return RowMetric("r2", "max", rows)


def _is_broadcast(evaluation: Evaluation) -> bool:
    """Return whether a single column of outputs or targets is compared with each of several, as by a loss."""
    shapes = evaluation.outputs.shape, evaluation.targets.shape
    return all(len(shape) == 2 for shape in shapes) and shapes[0] != shapes[1] and 1 in (shapes[0][1], shapes[1][1])


def estimates_targets(loss: LossInfo, evaluation: Evaluation) -> bool:
    """Return whether several outputs may each estimate the only target of a row, by the value of a custom loss.

    So it is if the loss is the squared or absolute error of each. Else the outputs are something else, such as the
    parameters of a distribution that a likelihood takes (mean and spread, a mixture).
    """
    outputs, targets = evaluation.outputs, evaluation.targets
    if not (loss.own and _is_broadcast(evaluation) and targets.shape[1] == 1) or not math.isfinite(evaluation.loss):
        return True
    with np.errstate(all="ignore"):
        errors = np.asarray(outputs, np.float64) - targets
        means = np.mean(errors**2), np.mean(np.abs(errors))
    return any(math.isclose(evaluation.loss, part * mean, rel_tol=_ROUNDING) for mean in means for part in (1, 0.5))


def _automatic(context: TaskContext, targets: TargetSummary, evaluation: Evaluation) -> Metric:
    logarithms = context.loss.expects in ("log_values", "log_probabilities")  # outputs do not estimate the targets
    logarithms &= not domain_violation(context, targets)  # and with such targets, they should
    logarithms |= not estimates_targets(context.loss, evaluation)
    for metric in (
        None if context.loss.judged_by_value else accuracy_metric(context, targets, evaluation),
        None if logarithms or context.loss.judged_by_value else r2_metric(evaluation, context.loss),
    ):
        if metric is not None and _fits(metric, evaluation):
            return metric
    return LossMetric("negative loss", "max")


def _check_classes(targets: TargetSummary, evaluation: Evaluation) -> None:
    """Check that an accuracy can distinguish a trained model from a constant prediction.

    Raises:
        DataError: If the validation data hold a single class, and the training data more.
    """
    labels = evaluation.targets
    if targets.one_hot:
        labels = labels.argmax(axis=-1)
    elif not targets.signed:
        labels = labels[labels >= 0]
    classes = np.unique(labels)
    comparable = targets.one_hot or targets.width == 1
    if len(evaluation.targets) > 1 and len(classes) == 1 and targets.majority < 1 and comparable:
        raise DataError(
            f"validation_data holds a single class ({classes[0]:g}), train_data more: a constant prediction would "
            "score best; pass validation_data with all classes, or another metric"
        )


def _fits(metric: RowMetric, evaluation: Evaluation) -> bool:
    """Return whether a metric takes the shapes of these outputs and targets."""
    try:
        metric.score(evaluation)
    except ValueError:
        return False
    return True


def _error_metric(name: str, error: Callable[[Floats], Floats]) -> RowMetric:
    def rows(evaluation: Evaluation) -> tuple[Floats, Floats | None]:
        outputs, targets = _columns(evaluation.outputs), _columns(evaluation.targets)
        if outputs.shape != targets.shape:
            raise ValueError("outputs and targets have different sizes")
        with np.errstate(all="ignore"):
            scores = -error(outputs - targets).mean(axis=1)
        return np.nan_to_num(scores, nan=-np.inf), None

    return RowMetric(name, "min", rows, lambda mean: -mean)


def _auc(targets: NDArray[Any], outputs: NDArray[Any]) -> float:
    """Return the area under the ROC curve of two classes, by ranks (Mann and Whitney 1947)."""
    scores = outputs.reshape(len(outputs), -1)
    scores = scores[:, -1] - scores[:, 0] if scores.shape[1] == 2 else scores[:, 0]
    labels = np.argmax(targets, axis=1) if targets.ndim > 1 and targets.shape[1] == 2 else targets.reshape(-1)
    if outputs.size > 2 * len(outputs) or len(labels) != len(scores):
        raise ValueError("auc takes two classes: one or two output units, one label per row")
    positive = labels > (labels.min() + labels.max()) / 2
    if positive.all() or not positive.any():
        raise ValueError("one of the two classes has no rows")
    values, index = np.unique(scores, return_inverse=True)
    counts = np.bincount(index, minlength=len(values))
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[index]
    positives = int(positive.sum())
    rank_sum = ranks[positive].sum() - positives * (positives + 1) / 2
    return float(rank_sum / (positives * (len(labels) - positives)))


def _columns(values: NDArray[Any]) -> Floats:
    return np.asarray(values, np.float64).reshape(len(values), -1)
