"""A linear model beside the network, on the rows of sampled batches: what a model of milliseconds makes of them.

It is fitted on three quarters of the rows and scored on the others, all of which the network is trained on. Only sums
are kept, no rows.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.signals import Floats, Observation
from autotrainer.records.task import TargetSummary, TaskContext, correct_rows

__all__ = ["LinearBaseline"]

_FEATURES = 64
"""Maximum features: of longer rows, means of neighbouring values. Bounds the cost of a sample by a millisecond."""
_CLASSES, _WIDTH = 256, 16
"""Maximum classes, and columns of numeric targets: wider ones are reconstructions, which a linear model copies."""
_LEAST_ROWS = 100
"""Fewest rows to fit on."""
_PENALTY = 0.01
"""Ridge penalty ÷ variance of a feature: a hundredth of the signal of one feature is lost."""
_PARTS = 4
"""One row in so many is held out, by a checksum of its values: always the same ones."""


class LinearBaseline:
    """Running ridge regression of targets, or of indicators of classes, on standardized inputs."""

    def __init__(self) -> None:
        self._count = 0
        self._sums: Floats = np.zeros(0)
        self._products: Floats = np.zeros(0)
        self._features = -1
        self._columns = -1
        self._off = False

    def add(self, observation: Observation, targets: TargetSummary, context: TaskContext) -> dict[str, float]:
        """Score the model so far and the network on the held-out rows of a batch, and learn from the others.

        Args:
            observation: The observation.
            targets: Summary of all targets so far.
            context: The training's model, loss, optimizer and data.

        Returns:
            The ``linear_*`` columns; empty where the task or the data do not suit a linear model.
        """
        if self._off or context.managed or context.input_kind == "index":
            return {}
        kind = context.kind(targets)
        labels = _numbers(observation, kind, targets, context)
        inputs = _inputs(observation)
        if labels is None or inputs is None or observation.outputs is None:
            return {}
        rows = min(len(inputs), len(labels))
        inputs, labels = inputs[:rows], labels[:rows]
        finite = np.isfinite(inputs).all(axis=1) & np.isfinite(labels).all(axis=1)
        held = np.array([crc32(row.tobytes()) % _PARTS == 0 for row in inputs]) & finite
        values = self._scores(observation, inputs, labels, held, kind, targets, context)
        self._learn(inputs[finite & ~held], labels[finite & ~held], classes=kind != "regression")
        return values

    def _learn(self, inputs: Floats, labels: Floats, *, classes: bool) -> None:
        columns = int(labels.max(initial=0)) + 1 if classes else labels.shape[1]
        if columns > (_CLASSES if classes else _WIDTH) or self._features not in (-1, inputs.shape[1]):
            self._off = True
            return
        features, columns = inputs.shape[1], max(columns, self._columns)
        if columns > self._columns:
            size = 1 + features + columns
            products = np.zeros((size, size))
            before = len(self._products) if self._products.ndim == 2 else 0
            products[:before, :before] = self._products if before else 0.0
            self._products, self._features, self._columns = products, features, columns
        targets = np.eye(self._columns)[labels[:, 0].astype(np.int64)] if classes else labels
        joint = np.hstack([np.ones((len(inputs), 1)), inputs, targets])
        self._products += joint.T @ joint
        self._count += len(inputs)

    def _predict(self, inputs: Floats) -> Floats:
        """Return predictions, shape (rows, columns)."""
        count, split = self._products[0, 0], 1 + self._features
        means = self._products[0, 1:] / count
        moments = self._products[1:, 1:] / count - np.outer(means, means)
        center, level = means[: self._features], means[self._features :]
        inner, outer = moments[: split - 1, : split - 1], moments[: split - 1, split - 1 :]
        scale = np.sqrt(np.maximum(np.diag(inner), 0.0))
        used = scale > 1e-8 * np.maximum(np.abs(center), 1e-30)
        scale = scale[used]
        inner = inner[np.ix_(used, used)] / np.outer(scale, scale)
        weights = np.linalg.solve(inner + _PENALTY * np.eye(len(scale)), outer[used] / scale[:, None])
        predicted: Floats = (inputs[:, used] - center[used]) / scale @ weights + level
        return predicted

    def _scores(
        self,
        observation: Observation,
        inputs: Floats,
        labels: Floats,
        held: NDArray[np.bool_],
        kind: str,
        targets: TargetSummary,
        context: TaskContext,
    ) -> dict[str, float]:
        if self._count < _LEAST_ROWS or self._features != inputs.shape[1] or not held.any():
            return {}
        predicted, outputs = self._predict(inputs[held]), np.asarray(observation.outputs, np.float64)
        if kind == "regression":
            if not targets.variance > 0 or self._columns != labels.shape[1]:
                return {}
            errors = [
                ((each - labels[held]) ** 2).mean(axis=1) / targets.variance
                for each in (outputs.reshape(len(outputs), -1)[: len(inputs)][held], predicted)
            ]
            network, linear = (1 - np.minimum(each, 1e6) for each in errors)
        else:
            linear = (predicted.argmax(axis=1) == labels[held, 0]).astype(np.float64)
            rows = np.asarray(observation.targets)[: len(inputs)]
            axis, cut = context.loss.class_axis, context.cut(targets)
            network = correct_rows(outputs[: len(inputs)], rows, kind, cut=cut, class_axis=axis)[held]  # type: ignore[arg-type]
        both = np.isfinite(network) & np.isfinite(linear)
        if not both.any():
            return {}
        return {
            "linear_score": float(linear[both].mean()),
            "linear_gain": float((linear - network)[both].mean()),
            "linear_rows": float(both.sum()),
        }


def _numbers(observation: Observation, kind: str, targets: TargetSummary, context: TaskContext) -> Floats | None:
    """Return class indices, shape (rows, 1), or numeric targets, shape (rows, width); None if there are none."""
    rows, outputs = observation.targets, observation.outputs
    if rows is None or outputs is None or len(rows) != len(outputs) or rows.ndim > 2:
        return None
    values = np.asarray(rows, np.float64).reshape(len(rows), -1)
    if kind == "regression":
        plain = context.loss.family in ("squared_error", "huber") and not context.loss.weighted
        return values if plain and outputs.size == rows.size and values.shape[1] <= _WIDTH else None
    if kind not in ("multiclass", "binary") or context.loss.weighted or outputs.ndim > 2:
        return None
    if targets.one_hot:
        classes: Floats = values.argmax(axis=1)[:, None].astype(np.float64)
        return classes
    if values.shape[1] != 1 or not targets.integral:
        return None
    values = np.maximum(values, 0.0) if targets.signed else values
    return values if values.min(initial=0) >= 0 else None


def _inputs(observation: Observation) -> Floats | None:
    """Return the inputs as rows of at most `_FEATURES` numbers; None if they are missing or no numbers."""
    inputs = observation.inputs
    if inputs is None or inputs.ndim < 1 or inputs.dtype.kind not in "fiub" or not len(inputs):
        return None
    rows = np.asarray(inputs, np.float64).reshape(len(inputs), -1)
    if rows.shape[1] <= _FEATURES:
        return rows
    starts = np.unique(np.linspace(0, rows.shape[1], _FEATURES, endpoint=False).astype(np.int64))
    widths = np.diff([*starts, rows.shape[1]])
    means: Floats = np.add.reduceat(rows, starts, axis=1) / widths
    return means
