"""Baseline models on a sample of rows: how well the inputs predict the targets without a network.

All are implemented here in NumPy, so that they are the same everywhere: ridge regression, linear and with a Gaussian
kernel, nearest neighbours, and a small tree; for reconstructions, principal components.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.signals import Floats

__all__ = ["CERTAIN", "MODELS", "TabularProblem", "operations", "simple_operations"]

CERTAIN = 2.5
"""Standard errors by which a lead is more than the chance of the best of four models (Bonferroni)."""

_NEIGHBOURS = 15
_PENALTIES = tuple(10.0**power for power in range(-6, 5))
_TRIALS = len(_PENALTIES) + 1
"""Products of directions and targets: one for each penalty, and the projection."""
_LEAVES, _MIN_LEAF_ROWS, _DEPTH = 32, 5, 8
_TREE_FEATURES, _TREE_COLUMNS = 256, 16
"""Maximum features that a tree may split by, and columns of targets that choose its splits: evenly spaced ones."""
_LEVELS = 5


@dataclass(frozen=True, slots=True)
class TabularProblem:
    """Rows to fit models on and rows to score them on.

    Attributes:
        inputs: Standardized features, shape (rows, features).
        targets: Indicators of classes, or numbers, shape (rows, columns).
        held_inputs: Features of the held-out rows.
        held_targets: Targets of the held-out rows; a class that is not among `targets` has no indicator.
        classes: Whether targets are classes, of which each row has one.
        labels: Whether targets are several labels, 0 or 1.
        code: Numbers that may be kept of each row, where the targets are the inputs; 0 where they are not.
        held_rows: Row of the data of each held-out row, which may be a time step of it; None for one each.
        columns: Columns of the data's targets that `targets` are, if these are numbers or labels; None for all.
    """

    inputs: Floats
    targets: Floats
    held_inputs: Floats
    held_targets: Floats
    classes: bool
    labels: bool = False
    code: int = 0
    held_rows: NDArray[np.int64] | None = None
    columns: NDArray[np.int64] | None = None

    @property
    def trivial(self) -> float:
        """Score of the best constant prediction that `targets` suggest: accuracy, or 0 for R²."""
        if self.classes:
            return float(self.held_targets[:, self.targets.sum(axis=0).argmax()].mean())
        common = (self.targets.mean(axis=0) > 0.5).astype(np.float64)
        return float((self.held_targets == common).mean()) if self.labels else 0.0

    def scores(self) -> dict[str, float]:
        """Return the score of each baseline model on the held-out rows: accuracy, or R² averaged over columns."""
        return {name: float(rows.mean()) for name, rows in self.row_scores().items()}

    def row_scores(self) -> dict[str, Floats]:
        """Return the score of each baseline model on each held-out row; their mean is its accuracy or R²."""
        if self.code:
            return {"linear_score": self.score_rows(self._components())}
        return {name: self.score_rows(model(self)) for name, model in MODELS.items()}

    def balanced_row_scores(self) -> dict[str, Floats]:
        """Return whether each baseline model, its prediction divided by the share of the class, is right in each row.

        So a class is predicted where it is more frequent than elsewhere, as if all were equally frequent. Nothing if
        the targets are not classes.
        """
        if not self.classes:
            return {}
        share = self.targets.mean(axis=0)
        return {name: self.score_rows(model(self) / share) for name, model in MODELS.items()}

    def score_rows(self, predicted: Floats) -> Floats:
        """Return the score of predictions for the held-out rows: whether the class is correct, or R² of the row."""
        if self.classes:
            hits: Floats = self.held_targets[np.arange(len(predicted)), predicted.argmax(axis=1)]
            return hits
        if self.labels:
            correct: Floats = ((predicted > 0.5) == (self.held_targets > 0.5)).mean(axis=1)
            return correct
        variance = self.held_targets.var(axis=0)
        used = variance > 0
        if not used.any():
            return np.full(len(predicted), math.nan)
        errors: Floats = (predicted - self.held_targets)[:, used] ** 2 / variance[used]
        scores: Floats = 1 - errors.mean(axis=1)
        return scores

    def ridge(self) -> Floats:
        """Ridge regression with the penalty of the smallest leave-one-out error (PRESS, Allen 1974)."""
        x, center = self.inputs, self.targets.mean(axis=0)
        if x.shape[1] > len(x):
            return self._dual_ridge(x @ x.T, self.held_inputs @ x.T)
        values, axes = _spectrum(x.T @ x)
        rows = x @ axes / np.sqrt(values)
        shrunk, projected = _shrinkage(values, rows, self.targets - center)
        weights = axes @ ((shrunk / np.sqrt(values))[:, None] * projected)
        predicted: Floats = self.held_inputs @ weights + center
        return predicted

    def _kernel(self) -> Floats:
        """Ridge regression with a Gaussian kernel, whose width is the median distance between rows."""
        squares = _squared_distances(self.inputs, self.inputs)
        width = float(np.median(squares[squares > 0])) if (squares > 0).any() else 1.0
        held = np.exp(-_squared_distances(self.held_inputs, self.inputs) / width)
        return self._dual_ridge(np.exp(-squares / width), held)

    def _dual_ridge(self, gram: Floats, held: Floats) -> Floats:
        """Return the predictions of ridge regression from products of rows."""
        center = self.targets.mean(axis=0)
        values, rows = _spectrum(gram)
        shrunk, projected = _shrinkage(values, rows, self.targets - center)
        predicted: Floats = held @ (rows @ ((shrunk / values)[:, None] * projected)) + center
        return predicted

    def neighbours(self) -> Floats:
        """Mean of the targets of the nearest rows; the nearest row breaks ties between classes."""
        count = max(1, min(_NEIGHBOURS, len(self.inputs) // 10))
        squares = _squared_distances(self.held_inputs, self.inputs)
        weights = np.zeros_like(squares)
        np.put_along_axis(weights, np.argpartition(squares, count - 1, axis=1)[:, :count], 1 / count, axis=1)
        predicted: Floats = weights @ self.targets + 1e-6 * self.targets[squares.argmin(axis=1)]
        return predicted

    def _tree(self) -> Floats:
        """Regression tree of at most 32 leaves, grown best first; for classes on their indicators."""
        chosen = _spaced(self.inputs.shape[1], _TREE_FEATURES)
        return _grow_tree(self.inputs[:, chosen], self.targets, self.held_inputs[:, chosen])

    def _components(self) -> Floats:
        """Reconstruction from as many principal components as the code has numbers."""
        center = self.targets.mean(axis=0)
        axes = np.linalg.svd(self.targets - center, full_matrices=False)[2][: self.code]
        predicted: Floats = (self.held_targets - center) @ axes.T @ axes + center
        return predicted


MODELS: dict[str, Callable[[TabularProblem], Floats]] = {
    "linear_score": TabularProblem.ridge,
    "kernel_score": TabularProblem._kernel,
    "neighbour_score": TabularProblem.neighbours,
    "tree_score": TabularProblem._tree,
}
"""Baseline models by the fact that holds their score."""


def operations(rows: int, held_out: int, features: int, columns: int = 1) -> int:
    """Return the multiply-adds of fitting all baseline models on so many rows, and of scoring them.

    Besides `simple_operations`, kernel: all distances, their eigenvectors, and each penalty for each column of the
    targets; tree: a sort of each feature on each level, and sums of the columns that choose splits.

    Args:
        rows: Rows to fit on.
        held_out: Rows to score on.
        features: Features of a row.
        columns: Columns of the targets.
    """
    kernel = rows * rows * features + 5 * rows**3 + rows * held_out * features
    kernel += columns * rows * (_TRIALS * rows + held_out)
    sums = max(1, math.ceil(math.log2(rows))) + min(columns, _TREE_COLUMNS) - 1
    tree = rows * min(features, _TREE_FEATURES) * sums * _LEVELS
    return simple_operations(rows, held_out, features, columns) + kernel + tree


def simple_operations(rows: int, held_out: int, features: int, columns: int = 1) -> int:
    """Return the multiply-adds of ridge regression and nearest neighbours.

    Ridge regression: the smaller Gram matrix and its eigenvectors (5 q³), and each penalty for each column of the
    targets; neighbours: all distances, and means of the targets. Arguments as for `operations`.
    """
    side = min(rows, features)
    ridge = rows * features * side + 5 * side**3 + columns * side * (_TRIALS * rows + features + held_out)
    return ridge + rows * held_out * (features + columns)


def _squared_distances(a: Floats, b: Floats) -> Floats:
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    clipped: Floats = np.maximum(squares, 0.0)
    return clipped


def _spectrum(gram: Floats) -> tuple[Floats, Floats]:
    """Return the eigenvalues that are not zero, and their eigenvectors."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-10 * max(float(values[-1]), 1e-30)
    return values[kept], vectors[:, kept]


def _shrinkage(values: Floats, rows: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Return the factors of the directions with the best penalty, and the targets projected on them."""
    projected = rows.T @ targets
    best: tuple[float, Floats] = (math.inf, np.zeros_like(values))
    scale = float(values.sum()) / len(rows)
    for penalty in _PENALTIES:
        shrunk = values / (values + penalty * scale)
        leverage = np.minimum((rows**2) @ shrunk, 0.999)[:, None]
        residuals = (targets - rows @ (shrunk[:, None] * projected)) / (1 - 1 / len(rows) - leverage).clip(1e-3)
        error = float((residuals**2).mean())
        best = min(best, (error, shrunk), key=lambda pair: pair[0])
    return best[1], projected


def _spaced(count: int, most: int) -> Floats:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def _grow_tree(inputs: Floats, targets: Floats, held: Floats) -> Floats:
    """Return the predictions of a tree: in each step, the leaf is split whose best split explains most."""
    criterion = targets[:, _spaced(targets.shape[1], _TREE_COLUMNS)]
    leaves = [(np.arange(len(inputs)), np.arange(len(held)), 0)]
    splits = [_best_split(inputs, criterion)]
    while len(leaves) < _LEAVES:
        chosen = max(range(len(leaves)), key=lambda place: splits[place][0])
        gain, feature, threshold = splits[chosen]
        if gain <= 0:
            break
        rows, held_rows, depth = leaves.pop(chosen)
        splits.pop(chosen)
        low, held_low = inputs[rows, feature] <= threshold, held[held_rows, feature] <= threshold
        for part, held_part in ((rows[low], held_rows[held_low]), (rows[~low], held_rows[~held_low])):
            leaves.append((part, held_part, depth + 1))
            deep = depth + 1 >= _DEPTH
            splits.append((0.0, 0, 0.0) if deep else _best_split(inputs[part], criterion[part]))
    predicted = np.empty((len(held), targets.shape[1]))
    for rows, held_rows, _ in leaves:
        predicted[held_rows] = targets[rows].mean(axis=0)
    return predicted


def _best_split(inputs: Floats, targets: Floats) -> tuple[float, int, float]:
    """Return how much the best split of rows reduces the squared error, its feature and its threshold."""
    rows = len(inputs)
    if rows < 2 * _MIN_LEAF_ROWS:
        return 0.0, 0, 0.0
    order = np.argsort(inputs, axis=0, kind="stable")
    values = np.take_along_axis(inputs, order, axis=0)
    low = np.arange(1, rows)[:, None]
    gain = np.zeros((rows - 1, inputs.shape[1]))
    for column in (targets - targets.mean(axis=0)).T:
        sums = np.cumsum(column[order], axis=0)[:-1]
        gain += sums**2 / low + sums**2 / (rows - low)  # the sum over all rows is 0
    allowed = (values[1:] > values[:-1]) & (low >= _MIN_LEAF_ROWS) & (rows - low >= _MIN_LEAF_ROWS)
    gain = np.where(allowed, gain, 0.0)
    place, feature = np.unravel_index(int(gain.argmax()), gain.shape)
    if gain[place, feature] <= 1e-9 * float(((targets - targets.mean(axis=0)) ** 2).sum()):
        return 0.0, 0, 0.0
    threshold = (values[place, feature] + values[place + 1, feature]) / 2
    return float(gain[place, feature]), int(feature), float(threshold)
