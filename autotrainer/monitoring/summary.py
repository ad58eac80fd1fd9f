"""Running summaries of inputs and targets, and the reduction of an observation to its numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.monitoring.loss_values import binary_entropies, cross_entropy, errors, measured
from autotrainer.records.signals import LAYER_COLUMNS, RARE, STEP_COLUMNS, Floats, Observation, StepStats
from autotrainer.records.task import MASKED, TargetSummary, TaskContext, correct_rows

__all__ = ["DataSummary", "summarize"]

_MAX_CLASSES = 4096
_MAX_VALUES = 32


class _Moments:
    """Exact running mean and variance per column (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Floats = np.zeros(0)
        self.squares: Floats = np.zeros(0)

    def add(self, columns: Floats) -> None:
        if self.count and self.mean.shape != columns.shape[1:]:
            return  # a batch of another width: the first one stays the reference
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


class DataSummary:
    """Accumulates what the sampled rows of a run say about its data. Holds moments and counts, never rows."""

    def __init__(self) -> None:
        self._inputs = _Moments()
        self._targets = _Moments()
        self._classes: Counter[float] = Counter()
        self._discrete = True
        self._one_hot = True
        self._summary = TargetSummary()

    @property
    def targets(self) -> TargetSummary:
        """Summary of all targets seen so far."""
        return self._summary

    def add_targets(self, targets: NDArray[Any]) -> None:
        """Take rows of targets into account; values that are not finite are left out, and masked class indices."""
        width = targets.shape[-1] if targets.ndim > 1 else 1
        columns = np.asarray(targets, np.float64).reshape(-1, width)
        columns = columns[np.isfinite(columns).all(axis=1)]
        if not len(columns):
            return
        self._targets.add(columns)
        known = columns.ravel()
        unmasked = known[known != MASKED]
        masked = targets.dtype.kind in "iu" and len(unmasked) < len(known) and bool((unmasked >= 0).all())
        known = unmasked if masked else known
        integral = bool((columns == np.round(columns)).all())
        ones_and_zeros = bool(((columns == 0) | (columns == 1)).all())
        counted_columns = self._one_hot
        self._one_hot &= width > 1 and ones_and_zeros and bool((columns.sum(axis=1) == 1).all())
        if counted_columns and not self._one_hot:
            self._classes.clear()  # columns of what looked like one-hot rows, not values
        self._discrete &= integral
        if self._discrete and (self._one_hot or len(self._classes) <= _MAX_CLASSES):
            labels = columns.argmax(axis=1) if self._one_hot else known
            values, counts = np.unique(labels, return_counts=True)
            self._classes.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        old = self._summary
        classes = self._classes if self._discrete else Counter[float]()
        shares = np.array(list(classes.values()), np.float64) / max(classes.total(), 1)
        listed = self._discrete and not self._one_hot and 0 < len(classes) <= _MAX_VALUES
        self._summary = TargetSummary(
            count=old.count + columns.size,
            rows=old.rows + len(targets),
            rank=targets.ndim,
            width=width,
            integer_type=targets.dtype.kind in "iub",
            integral=self._discrete,
            minimum=float(np.fmin(old.minimum, known.min() if known.size else np.nan)),
            maximum=float(np.fmax(old.maximum, columns.max())),
            mean=float(self._targets.mean.mean()),
            variance=float((self._targets.std**2).mean()),
            values=tuple(sorted(classes)) if listed else ((0.0, 1.0) if self._one_hot else ()),
            one_hot=self._one_hot,
            classes=len(classes),
            majority=float(shares.max()) if classes else float("nan"),
            entropy=_entropy(shares) if classes else float("nan"),
            rarest=float(shares.min()) if classes else float("nan"),
            masked=old.masked or masked,
        )

    def is_rare(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        """Say of each class (whole values, or one-hot columns) whether it is rare among all targets seen so far."""
        if not self._discrete or not self._classes:
            return np.zeros(labels.shape, bool)
        bound = RARE * max(self._classes.values())
        rare = [label for label, count in self._classes.items() if count <= bound]
        return np.isin(labels, rare)

    def add_inputs(self, inputs: NDArray[Any]) -> dict[str, float]:
        """Take rows of inputs into account and return the ``input_*`` columns."""
        rows = np.asarray(inputs, np.float64)
        finite = np.isfinite(rows)
        values = {"input_nonfinite": float(1 - finite.mean())}
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
        if varying.any():
            values["input_offset"] = float((np.abs(mean[varying]) / std[varying]).max())
            values["input_scale_ratio"] = float(std[varying].max() / std[varying].min())
        return values


def summarize(seen: Observation, epoch: int, data: DataSummary, context: TaskContext) -> StepStats:
    """Reduce an observation to its numbers and update the running summary of the data.

    Args:
        seen: The observation.
        epoch: 0-based epoch of the step.
        data: Running summary of the run's data; updated.
        context: What is known of the training.

    Returns:
        The statistics of the step.
    """
    values = dict.fromkeys(STEP_COLUMNS, float("nan"))
    values["loss"] = seen.loss
    values["learning_rate"] = seen.learning_rate
    values["batch_size"] = seen.batch_size
    values.update(seen.scalars)
    values["grad_norm"] = _total_norm(seen.layers[:, LAYER_COLUMNS.index("grad_norm")])
    with np.errstate(all="ignore"):
        if seen.inputs is not None and seen.inputs.size:
            values.update(data.add_inputs(seen.inputs))
        if seen.outputs is not None and seen.outputs.size:
            values.update(_output_values(np.asarray(seen.outputs, np.float64), context.loss.class_axis))
        if seen.targets is not None and seen.targets.size:
            data.add_targets(seen.targets)
            values.update(_target_values(np.asarray(seen.targets, np.float64)))
            values.update(_class_values(np.asarray(seen.targets), data.targets))
            values.update(_agreement(seen, data, context))
        if seen.features is not None and seen.features.size:
            values["feature_rank"] = _effective_rank(np.asarray(seen.features, np.float64))
    return StepStats(seen.step, epoch, np.array([values[c] for c in STEP_COLUMNS]), seen.layers)


def _total_norm(norms: Floats) -> float:
    known = norms[~np.isnan(norms)]
    return measured(np.sqrt(np.sum(known**2))) if known.size else float("nan")


def _spread(rows: Floats) -> float:
    return measured(np.sqrt(np.mean(np.var(rows.reshape(len(rows), -1), axis=0))))


def _output_values(outputs: Floats, class_axis: int) -> dict[str, float]:
    sums = outputs.sum(axis=class_axis) if outputs.ndim > 1 else outputs
    return {
        "output_min": measured(outputs.min()),
        "output_max": measured(outputs.max()),
        "output_row_sum": measured(sums.mean()),
        "output_row_sum_error": measured(np.abs(sums - 1).mean()),
        "output_spread": _spread(outputs),
    }


def _target_values(targets: Floats) -> dict[str, float]:
    return {
        "target_nonfinite": float(np.mean(~np.isfinite(targets))),
        "target_min": measured(targets.min()),
        "target_max": measured(targets.max()),
        "target_spread": _spread(targets),
    }


def _entropy(shares: Floats) -> float:
    """Return the entropy in nats of shares that add up to 1."""
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def _labels(targets: NDArray[Any], summary: TargetSummary) -> NDArray[Any]:
    """Return the classes: columns of one-hot rows, else the values as they are."""
    return targets.argmax(axis=-1) if summary.one_hot else targets


def _class_values(targets: NDArray[Any], summary: TargetSummary) -> dict[str, float]:
    """Return the entropy of the classes of a batch; empty where targets are no classes."""
    if not summary.classes:
        return {}
    labels = _labels(targets, summary).ravel()
    labels = labels[labels != MASKED] if summary.masked else labels
    _, counts = np.unique(labels, return_counts=True)
    return {"class_entropy": _entropy(counts / max(counts.sum(), 1))}


def _effective_rank(features: Floats) -> float:
    """Return exp(entropy of the normalized singular values) ÷ min(rows, features), of features less their mean.

    Garrido, Balestriero, Najman and LeCun, RankMe, ICML 2023 (arXiv 2210.02885), section 3.1. NaN where a feature is
    not finite or there are fewer than two rows; 0 where all rows are the same.
    """
    if len(features) < 2 or not np.isfinite(features).all():
        return float("nan")
    values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    total = values.sum()
    if total <= 1e-12 * max(1.0, float(np.abs(features).max())):
        return 0.0
    return float(np.exp(_entropy(values / total)) / min(len(features) - 1, features.shape[1]))


def _agreement(seen: Observation, data: DataSummary, context: TaskContext) -> dict[str, float]:
    """Return accuracy (classification), squared error (equal sizes) and known losses of the copied rows."""
    if seen.outputs is None or seen.targets is None or len(seen.outputs) != len(seen.targets):
        return {}
    values: dict[str, float] = {}
    targets = data.targets
    outputs = np.asarray(seen.outputs, np.float64)
    unknown_loss = context.loss.family in ("custom", "none")
    if outputs.size == seen.targets.size:
        values.update(errors(outputs, seen.targets))
        if targets.classes and unknown_loss:
            values.update(binary_entropies(outputs, seen.targets, context.output_activation))
    kind = context.kind(targets)
    if kind in ("multiclass", "binary", "multilabel"):
        try:
            correct = correct_rows(
                outputs, seen.targets, kind, cut=context.cut(targets), class_axis=context.loss.class_axis
            )
        except ValueError:  # shapes that do not belong together: no accuracy to tell
            return values
        known = correct[~np.isnan(correct)]
        if known.size:
            values["accuracy"] = float(known.mean())
        labels = _labels(np.asarray(seen.targets), targets).reshape(len(correct), -1)
        one_class = kind == "multiclass" and outputs.ndim == 2 and labels.shape[1] == 1 and not targets.masked
        if one_class and unknown_loss:
            values.update(cross_entropy(outputs, labels[:, 0], context.output_activation))
        if targets.classes and labels.shape[1] == 1:
            rare = correct[data.is_rare(labels[:, 0])]
            if rare.size:
                values["rare_accuracy"] = float(rare.mean())
    return values
