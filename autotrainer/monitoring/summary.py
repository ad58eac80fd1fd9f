"""Running summaries of inputs and targets, and the reduction of observations to statistics."""

from __future__ import annotations

from collections import Counter
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.monitoring.loss_values import entropies, errors, finite_or_inf
from autotrainer.monitoring.targets.class_weights import ClassWeights
from autotrainer.monitoring.targets.next_inputs import next_targets
from autotrainer.monitoring.targets.padding import padded_share
from autotrainer.monitoring.targets.repeated import repeated_columns
from autotrainer.records.signals import (
    LAYER_COLUMNS,
    MAX_DISTINCT,
    RARE_CLASS_RATIO,
    STEP_COLUMNS,
    Floats,
    Observation,
    StepStats,
)
from autotrainer.records.task import MASKED, TargetSummary, TaskContext, correct_rows, correct_values

__all__ = ["DataSummary", "summarize"]

_MAX_CLASSES = 4096
_MAX_VALUES = 32
_CENTER_ROWS = 64
"""Rows whose median is the reference of absolute differences."""
_FEW_SPACINGS = 4
"""Standard deviation of a feature, in distances of neighboring floating-point numbers, up to which rounding leaves a
handful of values: 14 of a uniform distribution."""


class _Moments:
    """Exact running mean and variance per column (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Floats = np.zeros(0)
        self.squares: Floats = np.zeros(0)

    def add(self, columns: Floats) -> None:
        if self.count and self.mean.shape != columns.shape[1:]:
            return  # a batch of another width: the first width stays the reference
        count, mean = len(columns), columns.mean(axis=0)
        squares = ((columns - mean) ** 2).sum(axis=0)
        if not self.count:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total = self.count + count
        delta = mean - self.mean
        self.squares += squares + delta**2 * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    @property
    def std(self) -> Floats:
        return np.sqrt(self.squares / max(self.count, 1))


class _Deviation:
    """Running mean absolute difference from the median of the first rows, over all columns."""

    def __init__(self) -> None:
        self._first: Floats | None = None
        self._center: Floats = np.zeros(0)
        self._total, self._count = 0.0, 0

    def add(self, columns: Floats) -> None:
        if self._count and columns.shape[1:] != self._center.shape:
            return  # a batch of another width, as in `_Moments`
        if not self._count or self._first is not None:
            columns = columns if self._first is None else np.concatenate([self._first, columns])
            self._first = columns if len(columns) < _CENTER_ROWS else None
            self._center = np.median(columns, axis=0)
            self._total, self._count = 0.0, 0
        self._total += float(np.abs(columns - self._center).sum())
        self._count += columns.size

    @property
    def mean(self) -> float:
        return self._total / self._count if self._count else float("nan")


class DataSummary:
    """Accumulates moments and class counts of the sampled rows of a run. Holds no rows but the first targets."""

    def __init__(self) -> None:
        self._inputs = _Moments()
        self._rows: set[int] = set()  # hashes of rows of inputs
        self._targets = _Moments()
        self._deviation = _Deviation()
        self._above = _Moments()
        self._entropies = _Moments()
        self._distinct: set[float] = set()
        self._classes: Counter[float] = Counter()
        self._discrete = True
        self._one_hot = True
        self._summary = TargetSummary()
        self.class_weights = ClassWeights()
        """Weights of classes in the loss."""

    @property
    def targets(self) -> TargetSummary:
        """Summary of all targets so far."""
        return self._summary

    def add_targets(self, targets: NDArray[Any]) -> None:
        """Add rows of targets; rows with values that are not finite and masked class indices are ignored."""
        width = targets.shape[-1] if targets.ndim > 1 else 1
        columns = np.asarray(targets, np.float64).reshape(-1, width)
        columns = columns[np.isfinite(columns).all(axis=1)]
        if not len(columns):
            return
        self._targets.add(columns)
        self._deviation.add(columns)
        self._above.add((columns > 0.5).astype(np.float64))
        self._entropies.add(_binary_entropies(np.clip(columns, 0, 1)))
        values = columns.ravel()
        if len(self._distinct) <= _MAX_VALUES:
            self._distinct.update(np.unique(values)[: _MAX_VALUES + 1].tolist())
        unmasked = values[values != MASKED]
        masked = targets.dtype.kind in "iu" and len(unmasked) < len(values) and bool((unmasked >= 0).all())
        values = unmasked if masked else values
        integral = bool((columns == np.round(columns)).all())
        zeros_and_ones = bool(((columns == 0) | (columns == 1)).all())
        was_one_hot = self._one_hot
        self._one_hot &= width > 1 and zeros_and_ones and bool((columns.sum(axis=1) == 1).all())
        if was_one_hot and not self._one_hot:
            self._classes.clear()  # these counted columns of rows that looked one-hot, not values
        self._discrete &= integral
        if self._discrete and (self._one_hot or len(self._classes) <= _MAX_CLASSES):
            labels = columns.argmax(axis=1) if self._one_hot else values
            distinct, counts = np.unique(labels, return_counts=True)
            self._classes.update(dict(zip(distinct.tolist(), counts.tolist(), strict=True)))
        old = self._summary
        classes = self._classes if self._discrete else Counter[float]()
        shares = np.array(list(classes.values()), np.float64) / max(classes.total(), 1)
        minimum = float(np.fmin(old.minimum, values.min() if values.size else np.nan))
        maximum = float(np.fmax(old.maximum, columns.max()))
        if minimum >= 0 and maximum <= 1 and not (old.masked or masked):
            above, means, entropies = self._above.mean, self._targets.mean, self._entropies.mean
        else:
            above = means = entropies = np.full(1, np.nan)
        listed = self._discrete and not self._one_hot and 0 < len(classes) <= _MAX_VALUES
        self._summary = TargetSummary(
            count=old.count + columns.size,
            rows=old.rows + len(targets),
            rank=targets.ndim,
            width=width,
            integer_type=targets.dtype.kind in "iub",
            integral=self._discrete,
            minimum=minimum,
            maximum=maximum,
            mean=float(self._targets.mean.mean()),
            variance=float((self._targets.std**2).mean()),
            values=tuple(sorted(classes)) if listed else ((0.0, 1.0) if self._one_hot else ()),
            one_hot=self._one_hot,
            classes=len(classes),
            majority=float(shares.max()) if classes else float("nan"),
            entropy=_entropy(shares) if classes else float("nan"),
            rarest=float(shares.min()) if classes else float("nan"),
            masked=old.masked or masked,
            distinct=min(len(self._distinct), _MAX_VALUES + 1),
            column_majority=float(np.maximum(above, 1 - above).mean()),
            column_entropy=float(_binary_entropies(means).mean()),
            value_entropy=float(entropies.mean()),
            deviation=self._deviation.mean,
        )

    def is_rare(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        """Return for each class (integral value, or one-hot column) whether it is rare among all targets so far."""
        if not self._discrete or not self._classes:
            return np.zeros(labels.shape, bool)
        bound = RARE_CLASS_RATIO * max(self._classes.values())
        rare = [label for label, count in self._classes.items() if count <= bound]
        return np.isin(labels, rare)

    def add_inputs(self, inputs: NDArray[Any]) -> dict[str, float]:
        """Add rows of inputs and return the columns about them."""
        rows = np.asarray(inputs, np.float64)
        finite = np.isfinite(rows)
        values = {"input_nonfinite": float(1 - finite.mean())}
        if len(self._rows) < MAX_DISTINCT:
            self._rows.update(hash(row.tobytes()) for row in inputs)
        values["distinct_rows"] = float(min(len(self._rows), MAX_DISTINCT))
        rows = np.where(finite, rows, 0.0)
        values["input_max_abs"] = float(np.abs(rows).max())
        self._inputs.add(rows if rows.ndim == 2 else rows.reshape(-1, 1))
        mean, std = self._inputs.mean, self._inputs.std
        values["input_mean"] = float(mean.mean())
        values["input_std"] = float(np.sqrt((std**2).mean() + mean.var()))
        if self._inputs.count < 2:
            return values
        varying = std > 1e-8 * np.maximum(np.abs(mean), 1e-30)
        values["input_constant"] = float(1 - varying.mean())
        values["input_rounded"] = float(_rounded(inputs.dtype, mean, std).mean())
        if varying.any():
            usual = np.sqrt((std**2).mean())  # a feature that hardly varies does no harm unless its mean is large, too
            values["input_offset"] = float((np.abs(mean[varying]) / np.maximum(std[varying], usual)).max())
            values["input_scale_ratio"] = float(std[varying].max() / std[varying].min())
        return values


def summarize(
    observation: Observation,
    epoch: int,
    data: DataSummary,
    context: TaskContext,
    guard: StatisticGuard | None = None,
) -> StepStats:
    """Reduce an observation to statistics and update the running summary of the data.

    Args:
        observation: The observation.
        epoch: 0-based epoch of the step.
        data: Running summary of the run's data; updated.
        context: The training's model, loss, optimizer and data.
        guard: Measures each group of statistics by itself; None: an exception of any is raised.

    Returns:
        The statistics of the step.
    """
    values = dict.fromkeys(STEP_COLUMNS, float("nan"))
    values["loss"] = observation.loss
    values["learning_rate"] = observation.learning_rate
    values["batch_size"] = observation.batch_size
    values.update(observation.scalars)
    values["grad_norm"] = _total_norm(observation.layers[:, LAYER_COLUMNS.index("grad_norm")])
    guard = guard or StatisticGuard(_raise)
    inputs, outputs, targets, features = (
        None if array is None or not array.size else array
        for array in (observation.inputs, observation.outputs, observation.targets, observation.features)
    )
    with np.errstate(all="ignore"):
        if inputs is not None:
            values.update(guard.measure("inputs", data.add_inputs, inputs) or {})
        if outputs is not None:
            values.update(guard.measure("outputs", _output_values, outputs, context.loss.class_axis) or {})
        if targets is not None:
            values.update(guard.measure("targets", _target_columns, targets, data) or {})
            values.update(guard.measure("weights of classes", _weight_columns, observation, data) or {})
            values.update(guard.measure("accuracy", _compare_with_targets, observation, data, context) or {})
        tokens = inputs if observation.tokens is None else observation.tokens
        if targets is not None and tokens is not None:
            by_steps = observation.tokens is not None  # where batches may have the time first
            following = guard.measure("next targets", next_targets, tokens, targets, by_steps=by_steps)
            values["next_targets"] = float("nan") if following is None else following
        if observation.labels is not None:
            padded = guard.measure("padding", padded_share, observation.labels, tokens)
            values["padded_targets"] = float("nan") if padded is None else padded
        if features is not None:
            rank = guard.measure("features of the output layer", _effective_rank, features)
            values["feature_rank"] = float("nan") if rank is None else rank
    layers = observation.layers
    if inputs is not None and _are_alike(inputs):  # outputs of equal inputs are equal in any model
        values["output_spread"] = values["feature_rank"] = float("nan")
        layers = layers.copy()
        layers[:, LAYER_COLUMNS.index("activation_spread")] = float("nan")
    scalars = np.array([values[column] for column in STEP_COLUMNS])
    return StepStats(observation.step, epoch, scalars, layers, observation.terms)


def _are_alike(inputs: NDArray[Any]) -> bool:
    """Return whether all rows of a batch are the same, as states of an environment may be."""
    return len(inputs) > 1 and bool((inputs[1:] == inputs[:1]).all())


def _total_norm(norms: Floats) -> float:
    norms = norms[~np.isnan(norms)]
    return finite_or_inf(np.sqrt(np.sum(norms**2))) if norms.size else float("nan")


def _sigmoid(values: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -values))


def _rounded(kind: np.dtype[Any], mean: Floats, std: Floats) -> NDArray[np.bool_]:
    """Return for each feature whether its values are rounded to a handful of numbers, or may have been to one."""
    if kind.kind != "f":
        return np.zeros(mean.shape, bool)
    spacing = np.finfo(kind).eps * np.abs(mean)
    # Integers from 2 / eps on are not all represented: a constant that large may have been several values.
    rounded: NDArray[np.bool_] = (std <= _FEW_SPACINGS * spacing) & ((std > 1e-8 * np.abs(mean)) | (spacing >= 2))
    return rounded


def _spread(rows: Floats) -> float:
    return finite_or_inf(np.sqrt(np.mean(np.var(rows.reshape(len(rows), -1), axis=0))))


def _raise(statistic: str, error: Exception) -> NoReturn:
    raise error


def _output_values(rows: NDArray[Any], class_axis: int) -> dict[str, float]:
    outputs = np.asarray(rows, np.float64)
    sums = outputs.sum(axis=class_axis) if outputs.ndim > 1 else outputs
    return {
        "output_min": finite_or_inf(outputs.min()),
        "output_max": finite_or_inf(outputs.max()),
        "output_row_sum": finite_or_inf(sums.mean()),
        "output_row_sum_error": finite_or_inf(np.abs(sums - 1).mean()),
        "output_spread": _spread(outputs),
    }


def _target_columns(targets: NDArray[Any], data: DataSummary) -> dict[str, float]:
    data.add_targets(targets)
    return {**_target_values(np.asarray(targets, np.float64)), **_class_values(targets, data.targets)}


def _weight_columns(observation: Observation, data: DataSummary) -> dict[str, float]:
    targets, weights = observation.targets, observation.weights
    if targets is None or weights is None or not data.targets.classes:
        return {}
    return data.class_weights.add(targets, weights, one_hot=data.targets.one_hot)


def _target_values(targets: Floats) -> dict[str, float]:
    return {
        "target_nonfinite": float(np.mean(~np.isfinite(targets))),
        "target_min": finite_or_inf(targets.min()),
        "target_max": finite_or_inf(targets.max()),
        "target_spread": _spread(targets),
    }


def _entropy(shares: Floats) -> float:
    """Return the entropy in nats of shares that sum to 1."""
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def _binary_entropies(shares: Floats) -> Floats:
    """Return the entropies in nats of binary variables with these probabilities of 1."""
    parts = [np.where(p == 0, 1, p) for p in (shares, 1 - shares)]
    entropies: Floats = -(parts[0] * np.log(parts[0]) + parts[1] * np.log(parts[1]))
    return entropies


def _labels(targets: NDArray[Any], summary: TargetSummary) -> NDArray[Any]:
    """Return class indices of one-hot rows; other targets unchanged."""
    return targets.argmax(axis=-1) if summary.one_hot else targets


def _class_values(targets: NDArray[Any], summary: TargetSummary) -> dict[str, float]:
    """Return the entropy of the classes of a batch; empty if the targets are not classes."""
    if not summary.classes:
        return {}
    labels = _labels(targets, summary).ravel()
    labels = labels[labels != MASKED] if summary.masked else labels
    _, counts = np.unique(labels, return_counts=True)
    return {"class_entropy": _entropy(counts / max(counts.sum(), 1))}


def _effective_rank(rows: NDArray[Any]) -> float:
    """Return exp(entropy of the normalized singular values) of the centered features, relative to the largest rank.

    Garrido, Balestriero, Najman and LeCun, RankMe, ICML 2023 (arXiv 2210.02885), section 3.1. NaN if a feature is not
    finite or there are fewer than two rows; 0 if all rows are equal.
    """
    features = np.asarray(rows, np.float64)
    if len(features) < 2 or not np.isfinite(features).all():
        return float("nan")
    values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    total = values.sum()
    if total <= 1e-12 * max(1.0, float(np.abs(features).max())):
        return 0.0
    return float(np.exp(_entropy(values / total)) / min(len(features) - 1, features.shape[1]))


def _compare_with_targets(observation: Observation, data: DataSummary, context: TaskContext) -> dict[str, float]:
    """Return accuracies (classification), errors (equal sizes) and standard losses of the copied rows."""
    rows = observation.targets
    if observation.outputs is None or rows is None or len(observation.outputs) != len(rows):
        return {}
    values: dict[str, float] = {}
    targets = data.targets
    outputs = np.asarray(observation.outputs, np.float64)
    if outputs.size == rows.size:
        logits = context.loss.family == "binary_cross_entropy" and context.loss.expects == "logits"
        values.update(errors(_sigmoid(outputs) if logits else outputs, rows, custom=context.loss.own))
    kind = context.kind(targets)
    values.update(repeated_columns(outputs, rows, kind, cut=context.cut(targets), class_axis=context.loss.class_axis))
    if context.loss.own:
        class_labels = _labels(np.asarray(rows), targets) if kind == "multiclass" else None
        loss = observation.scalars.get("data_loss", observation.loss)
        values.update(entropies(outputs, rows, class_labels, loss))
    if kind in ("multiclass", "binary", "multilabel") and not context.loss.mixes_classes(targets):
        try:
            cut = 0.0 if values.get("entropy_of_logits") == 1 else context.cut(targets)
            correct = correct_rows(outputs, rows, kind, cut=cut, class_axis=context.loss.class_axis)
        except ValueError:  # outputs and targets have incompatible shapes
            return values
        unmasked = correct[~np.isnan(correct)]
        if unmasked.size:
            values["accuracy"] = float(unmasked.mean())
        if targets.classes:
            labels = _labels(np.asarray(rows), targets).ravel()
            hits, mask = correct_values(outputs, rows, kind, cut=cut, class_axis=context.loss.class_axis)
            rare = data.is_rare(labels) & mask.ravel() if labels.size == hits.size else np.zeros(0, bool)
            if rare.any():
                values["rare_accuracy"] = float(hits.ravel()[rare].mean())
    return values
