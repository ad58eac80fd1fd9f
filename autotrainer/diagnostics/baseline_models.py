"""Baseline models on a sample of rows: how well the inputs predict the targets without a network.

Ridge regression and nearest neighbours are implemented here, so that they are the same everywhere; a small tree comes
from scikit-learn if that is installed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.data import ArrayData, arrays_of
from autotrainer.records.signals import Floats
from autotrainer.records.task import MASKED, TargetSummary, TaskContext

__all__ = ["TabularProblem", "features", "make_problem", "operations"]

_MAX_FEATURES = 4096
"""Maximum features of a row: with more, a linear model on a thousand rows says nothing."""
_BINS = 1024
"""Columns in which tokens are counted, by their index modulo this number."""
_COLUMNS = 16
"""Maximum columns of numeric targets: evenly spaced ones."""
_NEIGHBOURS = 15
_PENALTIES = tuple(10.0**power for power in range(-3, 5))
_LEAVES, _MIN_LEAF_ROWS, _LEVELS = 32, 5, 5


@dataclass(frozen=True, slots=True)
class TabularProblem:
    """Rows to fit models on and rows to score them on.

    Attributes:
        inputs: Standardized features, shape (rows, features).
        targets: Indicators of classes, or numbers, shape (rows, columns).
        held_inputs: Features of the held-out rows.
        held_targets: Targets of the held-out rows; a class that is not among `targets` has no indicator.
        classes: Whether targets are classes.
    """

    inputs: Floats
    targets: Floats
    held_inputs: Floats
    held_targets: Floats
    classes: bool

    @property
    def trivial(self) -> float:
        """Accuracy of always predicting the most frequent class of `targets`; 0 for R²."""
        return float(self.held_targets[:, self.targets.sum(axis=0).argmax()].mean()) if self.classes else 0.0

    def scores(self) -> dict[str, float]:
        """Return the score of each baseline model on the held-out rows: accuracy, or R² averaged over columns."""
        scores = {"linear_score": self._score(self._ridge()), "neighbour_score": self._score(self._neighbours())}
        if find_spec("sklearn") is not None:
            scores["tree_score"] = self._score(self._tree())
        return scores

    def _score(self, predicted: Floats) -> float:
        if self.classes:
            return float(self.held_targets[np.arange(len(predicted)), predicted.argmax(axis=1)].mean())
        variance = self.held_targets.var(axis=0)
        used = variance > 0
        errors = ((predicted - self.held_targets) ** 2).mean(axis=0)
        return float(1 - (errors[used] / variance[used]).mean()) if used.any() else math.nan

    def _ridge(self) -> Floats:
        """Ridge regression with the penalty of the smallest leave-one-out error (PRESS, Allen 1974)."""
        x, center = self.inputs, self.targets.mean(axis=0)
        wide = x.shape[1] > len(x)
        values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
        kept = values > 1e-10 * max(values[-1], 1e-30)
        values, vectors = values[kept], vectors[:, kept]
        lengths = np.sqrt(values)
        rows, axes = (vectors, x.T @ vectors / lengths) if wide else (x @ vectors / lengths, vectors)
        projected = rows.T @ (self.targets - center)
        best: tuple[float, Floats] = (math.inf, np.zeros_like(values))
        for penalty in _PENALTIES:
            shrunk = values / (values + penalty * len(x))
            residuals = (self.targets - center - rows @ (shrunk[:, None] * projected)) / (
                1 - 1 / len(x) - np.minimum((rows**2) @ shrunk, 0.999)[:, None]
            ).clip(1e-3)
            error = float((residuals**2).mean())
            best = min(best, (error, shrunk), key=lambda pair: pair[0])
        weights: Floats = axes @ ((best[1] / lengths)[:, None] * projected)
        predicted: Floats = self.held_inputs @ weights + center
        return predicted

    def _neighbours(self) -> Floats:
        """Mean of the targets of the nearest rows; the nearest row breaks ties between classes."""
        count = max(1, min(_NEIGHBOURS, len(self.inputs) // 10))
        squares = (self.inputs**2).sum(axis=1) - 2 * self.held_inputs @ self.inputs.T
        near = np.argpartition(squares, count - 1, axis=1)[:, :count]
        nearest = self.targets[squares.argmin(axis=1)]
        predicted: Floats = self.targets[near].mean(axis=1) + 1e-6 * nearest
        return predicted

    def _tree(self) -> Floats:
        """Regression tree, for classes on their indicators."""
        from sklearn.tree import DecisionTreeRegressor

        tree = DecisionTreeRegressor(max_leaf_nodes=_LEAVES, min_samples_leaf=_MIN_LEAF_ROWS, random_state=0)
        predicted: Floats = tree.fit(self.inputs, self.targets).predict(self.held_inputs)
        return predicted.reshape(len(self.held_inputs), -1)


def operations(rows: int, held_out: int, features: int) -> int:
    """Return the multiply-adds of fitting all baseline models on so many rows, and of scoring them.

    Ridge regression: the smaller Gram matrix and its eigenvectors (5 q³); neighbours: all distances; tree: a sort of
    each feature on each level.

    Args:
        rows: Rows to fit on.
        held_out: Rows to score on.
        features: Features of a row.
    """
    side = min(rows, features)
    ridge = rows * features * side + 5 * side**3
    tree = rows * features * max(1, math.ceil(math.log2(rows))) * _LEVELS
    return ridge + rows * held_out * features + tree


def make_problem(
    train: ArrayData, held_out: ArrayData, targets: TargetSummary, context: TaskContext
) -> TabularProblem | None:
    """Return the problem in the form that baseline models take.

    Args:
        train: Rows to fit on.
        held_out: Rows to score on.
        targets: Summary of all training targets.
        context: Context of the training.

    Returns:
        The problem; None if there is one target per time step, several labels per row, too many features, or no
        variation.
    """
    kind = context.kind(targets)
    classes = kind in ("multiclass", "binary")
    if kind not in ("multiclass", "binary", "regression"):
        return None
    inputs, held = (features(data.inputs, tokens=context.input_kind == "index") for data in (train, held_out))
    if inputs is None or held is None or inputs.shape[1] != held.shape[1]:
        return None
    columns = _classes(train, held_out, targets) if classes else _numbers(train, held_out)
    if columns is None:
        return None
    kept = [(y != MASKED).any(axis=1) if classes else np.isfinite(y).all(axis=1) for y in columns]
    (x, y), (held_x, held_y) = ((x[k], y[k]) for x, y, k in zip((inputs, held), columns, kept, strict=True))
    spread = x.std(axis=0) if len(x) else np.zeros(0)
    varying = spread > 1e-8 * np.maximum(np.abs(x).max(axis=0, initial=0), 1e-30)
    if not varying.any() or not len(held_x) or not y.var(axis=0).any():
        return None
    mean, spread = x[:, varying].mean(axis=0), spread[varying]
    scaled = [((part[:, varying] - mean) / spread).clip(-10, 10) for part in (x, held_x)]
    return TabularProblem(scaled[0], y, scaled[1], held_y, classes)


def features(inputs: Any, *, tokens: bool) -> Floats | None:
    """Return features of shape (rows, features): values as they are, tokens as counts; None if there are too many."""
    parts: list[Floats] = []
    for array in arrays_of(inputs):
        flat = array.reshape(len(array), -1)
        if tokens and array.dtype.kind in "iu":
            parts.append(_counted(flat))
        elif flat.shape[1] > _MAX_FEATURES or array.dtype.kind not in "biuf":
            return None
        else:
            parts.append(np.nan_to_num(flat.astype(np.float64), posinf=0.0, neginf=0.0))
    joined = np.concatenate(parts, axis=1)
    return joined if 0 < joined.shape[1] <= _MAX_FEATURES else None


def _counted(tokens: NDArray[Any]) -> Floats:
    counts = np.zeros((len(tokens), _BINS))
    np.add.at(counts, (np.arange(len(tokens))[:, None], tokens % _BINS), 1.0)
    return np.log1p(counts)


def _classes(train: ArrayData, held_out: ArrayData, targets: TargetSummary) -> list[Floats] | None:
    """Return indicators of the classes that the training rows have; masked rows are `MASKED`."""
    labels = []
    for data in (train, held_out):
        one_hot = targets.one_hot and data.targets.ndim == 2
        if not one_hot and data.targets.size != len(data.targets):
            return None
        labels.append(data.targets.argmax(axis=1) if one_hot else data.targets.reshape(-1))
    classes = np.unique(labels[0][labels[0] != MASKED])
    indicators = [(part[:, None] == classes).astype(np.float64) for part in labels]
    for part, rows in zip(labels, indicators, strict=True):
        rows[part == MASKED] = MASKED
    return indicators


def _numbers(train: ArrayData, held_out: ArrayData) -> list[Floats] | None:
    columns = [data.targets.reshape(len(data.targets), -1).astype(np.float64) for data in (train, held_out)]
    width = columns[0].shape[1]
    if columns[1].shape[1] != width:
        return None
    chosen = np.unique(np.linspace(0, width - 1, min(width, _COLUMNS)).astype(int))
    return [part[:, chosen] for part in columns]
