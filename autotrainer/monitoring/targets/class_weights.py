"""How the weights of rows in the loss go with the frequency of their classes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.signals import Floats
from autotrainer.records.task import MASKED

__all__ = ["ClassWeights"]

_EQUAL = 1e-3
"""Largest relative difference between the weights of the rows of a class: half precision leaves 5e-4."""
_ROWS = 5
"""Fewest rows of a class whose frequency counts."""
_VALUES = 4096
"""Evenly strided targets of a batch that are counted, at most."""
_MOST = 4096
"""Most classes that are counted."""


class ClassWeights:
    """Weights and numbers of rows by class, of all rows so far; for labels in columns, by column and label."""

    def __init__(self) -> None:
        self._classes: dict[tuple[float, float], tuple[int, float]] = {}  # rows and weight by column and label
        self._by_class = True
        self._columns: bool | None = None
        self._earlier: list[dict[tuple[float, float], int]] = [{}, {}]  # rows of the first quarter to half of all

    def add(self, targets: NDArray[Any], weights: NDArray[Any], *, one_hot: bool) -> dict[str, float]:
        """Add rows and return the columns about them; empty if the weights are not those of classes, or all equal.

        Args:
            targets: Class indices, one-hot rows or labels in columns, the first axis that of the rows.
            weights: Their weights, shape (rows,) or that of the targets.
            one_hot: Whether the targets are one-hot rows.
        """
        labels = np.asarray(targets.argmax(axis=-1) if one_hot else targets, np.float64)
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        given = np.asarray(weights, np.float64)
        given = given[..., 0] if given.shape[-1:] == (1,) and given.ndim > 1 else given
        if not self._by_class or given.shape != labels.shape[: given.ndim]:
            return {}
        in_columns = labels.ndim == 2 and not one_hot and bool(((labels == 0) | (labels == 1)).all())
        self._columns = in_columns if self._columns is None else self._columns
        self._by_class = self._columns == in_columns
        given = np.broadcast_to(given.reshape(*given.shape, *[1] * (labels.ndim - given.ndim)), labels.shape)
        numbers: Floats = np.arange(labels.shape[1], dtype=np.float64) if in_columns else np.zeros(1)
        columns = np.broadcast_to(numbers, labels.shape)
        stride = math.ceil(labels.size / _VALUES)
        self._count(columns[::stride].ravel(), labels[::stride].ravel(), given[::stride].ravel())
        return self._values() if self._by_class else {}

    def _count(self, columns: Floats, labels: Floats, weights: Floats) -> None:
        if sum(rows for rows, _ in self._classes.values()) >= 2 * sum(self._earlier[1].values()):
            self._earlier = [self._earlier[1], {key: rows for key, (rows, _) in self._classes.items()}]
        valid = np.isfinite(labels) & (labels != MASKED)
        pairs = np.stack([columns, labels], axis=1)[valid]
        if not len(pairs):
            return
        keys, places, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
        low, high = np.full(len(keys), np.inf), np.full(len(keys), -np.inf)
        np.minimum.at(low, places.ravel(), weights[valid])
        np.maximum.at(high, places.ravel(), weights[valid])
        for (column, label), count, least, most in zip(keys.tolist(), counts.tolist(), low, high, strict=True):
            rows, weight = self._classes.get((column, label), (0, float(least)))
            self._classes[column, label] = rows + count, weight
            self._by_class &= max(abs(least - weight), abs(most - weight)) <= _EQUAL * abs(weight)
        self._by_class &= len(self._classes) <= _MOST

    def _is_steady(self, common: tuple[float, float], rare: tuple[float, float]) -> bool:
        """Return whether a class is the more frequent one in earlier rows and in later ones, as in shuffled data."""
        first = [self._earlier[0].get(key, 0) for key in (common, rare)]
        rest = [self._classes[key][0] - rows for key, rows in zip((common, rare), first, strict=True)]
        return first[0] > first[1] and rest[0] > rest[1]

    def _values(self) -> dict[str, float]:
        known = [key for key, (rows, weight) in self._classes.items() if rows >= _ROWS and weight > 0]
        logs = dict(zip(known, np.log([self._classes[key] for key in known]), strict=True))
        if self._columns:  # each has two classes
            columns = sorted({column for column, label in known if (column, 1.0 - label) in logs})
            points = np.array([logs[column, 0.0] - logs[column, 1.0] for column in columns]).reshape(-1, 2)
        else:
            points = np.array(list(logs.values())).reshape(-1, 2)
        if len(points) < (1 if self._columns else 2):
            return {}
        if self._columns:
            most = int(np.abs(points[:, 0]).argmax())
            sign = np.sign(points[most, 0])
            extreme = points[most] * sign
            common, rare = (columns[most], float(sign < 0)), (columns[most], float(sign >= 0))
        else:
            places = int(points[:, 0].argmax()), int(points[:, 0].argmin())
            extreme = points[places[0]] - points[places[1]]
            common, rare = (known[place] for place in places)
        if not self._is_steady(common, rare):
            return {}
        x, y = (points if self._columns else points - points.mean(axis=0)).T
        if not np.ptp([weight for _, weight in self._classes.values()]) > 0 or not (x**2).sum() > 0:
            return {}
        norm = np.sqrt((x**2).sum() * (y**2).sum())
        return {
            "weight_slope": float((x * y).sum() / (x**2).sum()),
            "weight_correlation": float((x * y).sum() / norm) if norm > 0 else 0.0,
            "weight_ratio": float(np.exp(extreme[1])),
            "class_ratio": float(np.exp(extreme[0])),
        }
