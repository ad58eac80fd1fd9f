"""Which metric judges: the user's choice, or what targets and loss ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.spec import Evaluation
from autotrainer.errors import ConfigError, DataError, InputError, nearest
from autotrainer.records.signals import Floats
from autotrainer.records.task import TargetSummary, TaskContext, TaskKind, correct_rows
from autotrainer.scoring.metrics import LossMetric, Metric, Mode, RowMetric, WholeMetric

__all__ = ["MetricSelection", "accuracy_metric", "r2_metric"]

_WORST_ROW = -1e12
"""Lower limit of one row's R²: keeps a diverged, finite prediction summable."""


class MetricSelection:
    """The user's choice, checked; becomes a `Metric` once targets and a first evaluation are known.

    Args:
        metric: ``auto``, ``loss``, another name, or a callable(y_true, y_pred) on NumPy arrays.
        mode: ``max``, ``min`` or None for what is usual.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: If the name is unknown or the mode does not fit.
    """

    NAMES: ClassVar[dict[str, Mode]] = {
        "accuracy": "max",
        "r2": "max",
        "auc": "max",
        "loss": "min",
        "mse": "min",
        "mae": "min",
    }

    def __init__(self, metric: Any = "auto", mode: Any = None, seed: int = 0) -> None:
        if mode not in (None, "max", "min"):
            raise ConfigError(f"mode must be 'max', 'min' or None, not {mode!r}")
        if isinstance(metric, str):
            if metric != "auto" and metric not in self.NAMES:
                raise ConfigError(f"unknown metric {metric!r}: {nearest(metric, ['auto', *self.NAMES])}")
            usual = self.NAMES.get(metric, "max")
            if mode not in (None, usual):
                raise ConfigError(f"metric {metric!r} has mode {usual!r}; leave mode out, or give a callable metric")
        elif not callable(metric):
            raise ConfigError(f"metric must be a name or a callable(y_true, y_pred), not {type(metric).__name__}")
        self._metric, self._mode, self._seed = metric, mode, seed

    def decide(self, context: TaskContext, targets: TargetSummary, evaluation: Evaluation) -> Metric:
        """Return the metric.

        Args:
            context: The training as given.
            targets: Its targets.
            evaluation: A first one.

        Raises:
            InputError: If the metric does not fit the outputs or targets.
            DataError: If it can't tell anything on these targets.
        """
        name = self._metric
        if not len(evaluation.outputs):  # PyTorch: a ``step`` that returns the loss alone
            if name not in ("auto", "loss"):
                raise InputError(f"metric {name!r} needs outputs and targets: let step return (loss, outputs, targets)")
            return LossMetric("loss", "min") if name == "loss" else LossMetric("negative loss", "max")
        if callable(name):
            label = getattr(name, "__name__", type(name).__name__)
            return WholeMetric(label, self._mode or "max", name, self._seed)
        if name == "auto":
            found = _automatic(context, targets, evaluation)
            if found.name == "accuracy":
                _check_classes(targets, evaluation)
            return found
        if name == "loss":
            return LossMetric("loss", "min")
        if name == "auc":
            return WholeMetric("auc", "max", _auc, self._seed)
        metric: RowMetric | None
        if name == "accuracy":
            metric = accuracy_metric(context, targets, evaluation)
        elif name == "r2":
            metric = r2_metric(evaluation)
        else:
            metric = _error_metric(name, np.square if name == "mse" else np.abs)
        if metric is not None and _fits(metric, evaluation):
            if name == "accuracy":
                _check_classes(targets, evaluation)
            return metric
        raise InputError(
            f"metric {name!r} does not fit targets of shape {evaluation.targets.shape} and outputs of shape "
            f"{evaluation.outputs.shape}: choose another metric or give a callable(y_true, y_pred)"
        )


def accuracy_metric(context: TaskContext, targets: TargetSummary, evaluation: Evaluation) -> RowMetric | None:
    """Return the accuracy in the given target space, or None where the task is no classification."""
    axis = context.loss.class_axis if evaluation.outputs.ndim > 2 else -1
    units = context.output_units or (evaluation.outputs.shape[axis] if evaluation.outputs.ndim > 1 else 1)
    known = TaskContext(loss=context.loss, output_units=units, output_activation=context.output_activation)
    kind: TaskKind = known.kind(targets)
    if kind in ("regression", "unknown") or (kind != "multiclass" and _numbers(targets)):
        return None
    cut = known.cut(targets)
    classes = kind == "multiclass" or not (targets.binary or targets.signed or targets.values == ())
    two = kind == "binary" and len(targets.values) == 2

    def rows(seen: Evaluation) -> tuple[Floats, Floats | None]:
        outputs = np.asarray(seen.outputs, np.float64)
        if classes and outputs.size == len(outputs):  # one unit for labels beyond yes and no: it says no or yes
            low, high = targets.values if two else (0.0, 1.0)
            said = np.where(outputs.reshape(-1) > cut, high, low) == seen.targets.reshape(-1)
            return np.where(np.isfinite(outputs.reshape(-1)), said, False).astype(np.float64), None
        scores = correct_rows(outputs, seen.targets, kind, cut=cut, class_axis=axis)
        sequence = kind == "multiclass" and seen.targets.ndim > 1 and seen.targets.shape != outputs.shape
        if not sequence or seen.targets.size == len(seen.targets):
            return scores, None
        unmasked = (seen.targets.reshape(len(scores), -1) >= 0).sum(axis=1)
        return scores, unmasked.astype(np.float64)

    return RowMetric("accuracy", "max", rows)


def _numbers(targets: TargetSummary) -> bool:
    """Say whether targets are numbers that no yes or no stands for, such as prices under a binary cross-entropy."""
    return not targets.values and not 0 <= targets.minimum <= targets.maximum <= 1


def r2_metric(evaluation: Evaluation) -> RowMetric | None:
    """Return R² against the mean of the validation targets, averaged over outputs, or None where it is undefined."""
    wanted = _columns(evaluation.targets)
    varying = wanted.var(axis=0) > 0
    if not varying.any() or evaluation.outputs.size != evaluation.targets.size:
        return None

    def rows(seen: Evaluation) -> tuple[Floats, Floats | None]:
        targets = _columns(seen.targets)
        outputs = np.asarray(seen.outputs, np.float64).reshape(targets.shape)
        scale = targets.var(axis=0)
        used = varying & (scale > 0)
        with np.errstate(all="ignore"):
            scores = 1 - ((outputs - targets)[:, used] ** 2 / scale[used]).mean(axis=1)
        scores = np.maximum(np.nan_to_num(scores, nan=_WORST_ROW, neginf=_WORST_ROW), _WORST_ROW)
        return np.where(np.isfinite(outputs).all(axis=1), scores, -1.0), None

    return RowMetric("r2", "max", rows)


def _automatic(context: TaskContext, targets: TargetSummary, evaluation: Evaluation) -> Metric:
    logarithms = context.loss.expects in ("log_values", "log_probabilities")  # no estimates of the targets
    for metric in (accuracy_metric(context, targets, evaluation), None if logarithms else r2_metric(evaluation)):
        if metric is not None and _fits(metric, evaluation):
            return metric
    return LossMetric("negative loss", "max")


def _check_classes(targets: TargetSummary, evaluation: Evaluation) -> None:
    """Check that an accuracy tells a training from a constant answer.

    Raises:
        DataError: If validation data hold one class alone, and training data more.
    """
    wanted = evaluation.targets
    labels = wanted.argmax(axis=-1) if targets.one_hot else wanted[wanted >= 0] if not targets.signed else wanted
    kinds = np.unique(labels)
    if len(wanted) > 1 and len(kinds) == 1 and targets.majority < 1 and (targets.one_hot or targets.width == 1):
        raise DataError(
            f"validation_data holds a single class ({kinds[0]:g}), train_data more: whatever always answers that class "
            "would score best; give validation_data with all classes, or another metric"
        )


def _fits(metric: RowMetric, evaluation: Evaluation) -> bool:
    """Say whether a metric can bring together the shapes of outputs and targets."""
    try:
        metric.judge(evaluation)
    except ValueError:
        return False
    return True


def _error_metric(name: str, error: Callable[[Floats], Floats]) -> RowMetric:
    def rows(seen: Evaluation) -> tuple[Floats, Floats | None]:
        outputs = np.asarray(seen.outputs, np.float64).reshape(len(seen.outputs), -1)
        targets = np.asarray(seen.targets, np.float64).reshape(len(seen.targets), -1)
        if outputs.shape != targets.shape:
            raise ValueError("outputs and targets have different sizes")
        with np.errstate(all="ignore"):
            scores = -error(outputs - targets).mean(axis=1)
        return np.nan_to_num(scores, nan=-np.inf), None

    return RowMetric(name, "min", rows, lambda mean: -mean)


def _auc(targets: NDArray[Any], outputs: NDArray[Any]) -> float:
    """Area under the ROC curve for two classes, by ranks (Mann and Whitney 1947)."""
    scores = outputs.reshape(len(outputs), -1)
    scores = scores[:, -1] - scores[:, 0] if scores.shape[1] == 2 else scores[:, 0]
    labels = np.argmax(targets, axis=1) if targets.ndim > 1 and targets.shape[1] == 2 else targets.reshape(-1)
    if outputs.size > 2 * len(outputs) or len(labels) != len(scores):
        raise ValueError("auc takes two classes: one or two output units, one label a row")
    positive = labels > (labels.min() + labels.max()) / 2
    if positive.all() or not positive.any():
        raise ValueError("there are no rows of one of the two classes")
    values, place = np.unique(scores, return_inverse=True)
    counts = np.bincount(place, minlength=len(values))
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    hits = int(positive.sum())
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * (len(labels) - hits)))


def _columns(values: NDArray[Any]) -> Floats:
    return np.asarray(values, np.float64).reshape(len(values), -1)
