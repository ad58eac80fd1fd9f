"""Simple models on a sample of rows: what the inputs tell of the targets without any network.

Ridge regression and nearest neighbours are computed here, so that they are the same everywhere; a small tree comes from
scikit-learn where that is installed.
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

__all__ = ["Problem", "pose", "work"]

_WIDEST = 4096
"""Features of a row at most: beyond, a linear model on a thousand rows says nothing."""
_BINS = 1024
"""Columns that tokens are counted in, by their index modulo this."""
_COLUMNS = 16
"""Columns of numeric targets at most: evenly strided ones."""
_NEIGHBOURS = 15
_PENALTIES = tuple(10.0**power for power in range(-3, 5))
_LEAVES, _LEAST_LEAF, _LEVELS = 32, 5, 5


@dataclass(frozen=True, slots=True)
class Problem:
    """Rows to learn from and rows to be judged on.

    Attributes:
        inputs: Features, shape (rows, features), standardized.
        targets: Indicators of classes, or numbers, shape (rows, columns).
        held_inputs: The same of held-out rows.
        held_targets: The same of held-out rows; a class that is not among the others has no indicator.
        classes: Whether targets are classes.
    """

    inputs: Floats
    targets: Floats
    held_inputs: Floats
    held_targets: Floats
    classes: bool

    @property
    def trivial(self) -> float:
        """Score of the commonest class of the rows to learn from; 0 for R²."""
        return float(self.held_targets[:, self.targets.sum(axis=0).argmax()].mean()) if self.classes else 0.0

    def scores(self) -> dict[str, float]:
        """Return the score of each simple model on the held-out rows: accuracy, or R² averaged over columns."""
        found = {"linear_score": self._score(self._ridge()), "neighbour_score": self._score(self._neighbours())}
        if find_spec("sklearn") is not None:
            found["tree_score"] = self._score(self._tree())
        return found

    def _score(self, said: Floats) -> float:
        if self.classes:
            return float(self.held_targets[np.arange(len(said)), said.argmax(axis=1)].mean())
        variance = self.held_targets.var(axis=0)
        used = variance > 0
        errors = ((said - self.held_targets) ** 2).mean(axis=0)
        return float(1 - (errors[used] / variance[used]).mean()) if used.any() else math.nan

    def _ridge(self) -> Floats:
        """Linear model; the penalty with the least error of leaving out one row (PRESS, Allen 1974)."""
        x, center = self.inputs, self.targets.mean(axis=0)
        wide = x.shape[1] > len(x)
        values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
        kept = values > 1e-10 * max(values[-1], 1e-30)
        values, vectors = values[kept], vectors[:, kept]
        lengths = np.sqrt(values)
        rows, axes = (vectors, x.T @ vectors / lengths) if wide else (x @ vectors / lengths, vectors)
        seen = rows.T @ (self.targets - center)
        best: tuple[float, Floats] = (math.inf, np.zeros_like(values))
        for penalty in _PENALTIES:
            shrunk = values / (values + penalty * len(x))
            left = (self.targets - center - rows @ (shrunk[:, None] * seen)) / (
                1 - 1 / len(x) - np.minimum((rows**2) @ shrunk, 0.999)[:, None]
            ).clip(1e-3)
            error = float((left**2).mean())
            best = min(best, (error, shrunk), key=lambda pair: pair[0])
        weights: Floats = axes @ ((best[1] / lengths)[:, None] * seen)
        said: Floats = self.held_inputs @ weights + center
        return said

    def _neighbours(self) -> Floats:
        """Mean of the targets of the nearest rows; ties between classes go to the nearest row."""
        count = max(1, min(_NEIGHBOURS, len(self.inputs) // 10))
        squares = (self.inputs**2).sum(axis=1) - 2 * self.held_inputs @ self.inputs.T
        near = np.argpartition(squares, count - 1, axis=1)[:, :count]
        nearest = self.targets[squares.argmin(axis=1)]
        said: Floats = self.targets[near].mean(axis=1) + 1e-6 * nearest
        return said

    def _tree(self) -> Floats:
        """Regression tree, on indicators for classes."""
        from sklearn.tree import DecisionTreeRegressor

        tree = DecisionTreeRegressor(max_leaf_nodes=_LEAVES, min_samples_leaf=_LEAST_LEAF, random_state=0)
        said: Floats = tree.fit(self.inputs, self.targets).predict(self.held_inputs).reshape(len(self.held_inputs), -1)
        return said


def work(rows: int, held_out: int, features: int) -> int:
    """Return the multiply-adds of all simple models on so many rows to learn from, to be judged on, and features.

    Ridge regression: the smaller Gram matrix and its eigenvectors (5 q³); neighbours: all distances; tree: a sort of
    each feature on each level.
    """
    side = min(rows, features)
    ridge = rows * features * side + 5 * side**3
    tree = rows * features * max(1, math.ceil(math.log2(rows))) * _LEVELS
    return ridge + rows * held_out * features + tree


def pose(train: ArrayData, held_out: ArrayData, targets: TargetSummary, context: TaskContext) -> Problem | None:
    """Return the problem as simple models take it.

    Args:
        train: Rows to learn from.
        held_out: Rows to be judged on.
        targets: Summary of all training targets.
        context: The training.

    Returns:
        The problem; None where there is one target a time step or several labels a row, rows are too wide, or
        nothing varies.
    """
    kind = context.kind(targets)
    classes = kind in ("multiclass", "binary")
    if kind not in ("multiclass", "binary", "regression"):
        return None
    seen, held = (features(data.inputs, tokens=context.input_kind == "index") for data in (train, held_out))
    if seen is None or held is None or seen.shape[1] != held.shape[1]:
        return None
    wanted = _classes(train, held_out, targets) if classes else _numbers(train, held_out)
    if wanted is None:
        return None
    kept = [(y != MASKED).any(axis=1) if classes else np.isfinite(y).all(axis=1) for y in wanted]
    (x, y), (held_x, held_y) = ((x[k], y[k]) for x, y, k in zip((seen, held), wanted, kept, strict=True))
    spread = x.std(axis=0) if len(x) else np.zeros(0)
    varying = spread > 1e-8 * np.maximum(np.abs(x).max(axis=0, initial=0), 1e-30)
    if not varying.any() or not len(held_x) or not y.var(axis=0).any():
        return None
    mean, spread = x[:, varying].mean(axis=0), spread[varying]
    scaled = [((part[:, varying] - mean) / spread).clip(-10, 10) for part in (x, held_x)]
    return Problem(scaled[0], y, scaled[1], held_y, classes)


def features(inputs: Any, *, tokens: bool) -> Floats | None:
    """Return a row of numbers for each row of inputs: values as they are, tokens counted; None if that is too wide."""
    parts: list[Floats] = []
    for array in arrays_of(inputs):
        flat = array.reshape(len(array), -1)
        if tokens and array.dtype.kind in "iu":
            parts.append(_counted(flat))
        elif flat.shape[1] > _WIDEST or array.dtype.kind not in "biuf":
            return None
        else:
            parts.append(np.nan_to_num(flat.astype(np.float64), posinf=0.0, neginf=0.0))
    joined = np.concatenate(parts, axis=1)
    return joined if 0 < joined.shape[1] <= _WIDEST else None


def _counted(tokens: NDArray[Any]) -> Floats:
    counts = np.zeros((len(tokens), _BINS))
    np.add.at(counts, (np.arange(len(tokens))[:, None], tokens % _BINS), 1.0)
    return np.log1p(counts)


def _classes(train: ArrayData, held_out: ArrayData, targets: TargetSummary) -> list[Floats] | None:
    """Return indicators of the classes of the rows to learn from; rows that do not count are `MASKED`."""
    labels = []
    for data in (train, held_out):
        one_hot = targets.one_hot and data.targets.ndim == 2
        if not one_hot and data.targets.size != len(data.targets):
            return None
        labels.append(data.targets.argmax(axis=1) if one_hot else data.targets.reshape(-1))
    known = np.unique(labels[0][labels[0] != MASKED])
    indicators = [(found[:, None] == known).astype(np.float64) for found in labels]
    for found, rows in zip(labels, indicators, strict=True):
        rows[found == MASKED] = MASKED
    return indicators


def _numbers(train: ArrayData, held_out: ArrayData) -> list[Floats] | None:
    columns = [data.targets.reshape(len(data.targets), -1).astype(np.float64) for data in (train, held_out)]
    width = columns[0].shape[1]
    if columns[1].shape[1] != width:
        return None
    chosen = np.unique(np.linspace(0, width - 1, min(width, _COLUMNS)).astype(int))
    return [found[:, chosen] for found in columns]
