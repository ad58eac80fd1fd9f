"""How validation rows differ from training rows: in their classes, in scale, and in distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.data import ArrayData, arrays_of
from autotrainer.records.signals import Floats
from autotrainer.records.task import MASKED, TargetSummary

__all__ = ["validation_mismatch"]

_ROWS, _COLUMNS = 5000, 256
"""Maximum rows of either data set, and columns, that are compared: evenly spaced ones."""
_MIN_ROWS = 20
"""Fewest rows of either data set whose distributions are compared."""
_VARIED = 0.25
"""Share of the training rows that differ from the median, from which a column has a scale that few rows show."""
_MAX_CLASS_SHARE = 0.1
"""Whole numbers with more distinct values than a tenth of the rows are counts, ages or identifiers, not classes."""


def validation_mismatch(train: ArrayData, held_out: ArrayData) -> dict[str, float]:
    """Compare validation rows with training rows.

    Args:
        train: Training data.
        held_out: Validation data.

    Returns:
        Facts by name, as far as the data show them: see `FACTS`.
    """
    facts = _compare_targets(train, held_out)
    pairs = list(zip(arrays_of(train.inputs), arrays_of(held_out.inputs), strict=False))
    kinds = [{a.dtype.kind, b.dtype.kind} for a, b in pairs]
    if any(not kind <= set("biuf") or kind <= set("biu") for kind in kinds):
        return facts  # whole numbers may be tokens
    if min(train.rows, held_out.rows) < _MIN_ROWS or any(a.shape[1:] != b.shape[1:] for a, b in pairs):
        return facts
    train_columns, held_out_columns, numbers = zip(*(_columns(a, b) for a, b in pairs), strict=True)
    starts = np.cumsum([0, *(a[:1].size for a, _ in pairs[:-1])])
    features = np.concatenate([part + start for part, start in zip(numbers, starts, strict=True)])
    return facts | _compare_columns(np.hstack(train_columns), np.hstack(held_out_columns), features)


def _compare_targets(train: ArrayData, held_out: ArrayData) -> dict[str, float]:
    if train.targets.dtype.kind not in "biuf" or held_out.targets.dtype.kind not in "biuf":
        return {}
    if train.targets.shape[1:] != held_out.targets.shape[1:] or not train.rows or not held_out.rows:
        return {}
    data = DataSummary()
    data.add_targets(train.targets[:_ROWS])
    data.add_targets(held_out.targets[:_ROWS])
    labels = [_labels(part.targets, data.targets) for part in (train, held_out)]
    if labels[0] is not None and labels[1] is not None:
        return _compare_classes(labels[0], labels[1])
    if min(train.rows, held_out.rows) < _MIN_ROWS or train.targets.size != train.rows:
        return {}
    distances, noise = _distances(*_columns(train.targets, held_out.targets)[:2])
    return {"target_shift": float(distances[0])} if len(distances) and distances[0] > noise else {}


def _labels(targets: NDArray[Any], summary: TargetSummary) -> NDArray[np.int64] | None:
    """Return the class of each row, or None if the targets are not classes."""
    if summary.one_hot and targets.ndim == 2:
        columns: NDArray[np.int64] = targets.argmax(axis=1)
        return columns
    if targets.size != len(targets) or not np.isfinite(targets.astype(np.float64)).all():
        return None
    flat = targets.reshape(-1)
    flat = flat[flat != MASKED]
    if not (flat == np.round(flat)).all() or len(np.unique(flat)) > max(2, _MAX_CLASS_SHARE * len(flat)):
        return None
    labels: NDArray[np.int64] = flat.astype(np.int64)
    return labels


def _compare_classes(train: NDArray[np.int64], held_out: NDArray[np.int64]) -> dict[str, float]:
    """Compare the shares of classes: total variation distance, with the p-value of a χ² test of homogeneity."""
    classes, index = np.unique(np.concatenate([train, held_out]), return_inverse=True)
    counts = np.stack([np.bincount(part, minlength=len(classes)) for part in np.split(index, [len(train)])])
    shares = counts / counts.sum(axis=1, keepdims=True)
    expected = counts.sum(axis=0) * counts.sum(axis=1, keepdims=True) / counts.sum()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    unseen = counts[0] == 0
    first_unseen = {"unseen_class": float(classes[unseen][0])} if unseen.any() else {}
    return first_unseen | {
        "validation_classes": float((counts[1] > 0).sum()),
        "unseen_classes": float(unseen.sum()),
        "unseen_class_share": float(shares[1][unseen].sum()),
        "absent_class_share": float(shares[0][counts[1] == 0].sum()),
        "class_shift": float(np.abs(shares[0] - shares[1]).sum() / 2),
        "class_shift_z": _chi_square_z(statistic, len(classes) - 1),
    }


def _chi_square_z(statistic: float, degrees: int) -> float:
    """Return the normal quantile of a χ² statistic (Wilson and Hilferty 1931)."""
    if degrees < 1:
        return 0.0
    part = 2 / (9 * degrees)
    return float(((statistic / degrees) ** (1 / 3) - (1 - part)) / math.sqrt(part))


def _compare_columns(train: Floats, held_out: Floats, features: NDArray[np.int64]) -> dict[str, float]:
    """Compare columns of inputs by mean, standard deviation and Kolmogorov–Smirnov distance.

    The scale is that of columns which vary in many rows: rare values may be missing in a few validation rows.
    """
    spread, other = train.std(axis=0), held_out.std(axis=0)
    used = spread > 1e-8 * np.maximum(np.abs(train).max(axis=0), 1e-30)
    if not used.any():
        return {}
    varied = used & ((train != np.median(train, axis=0)).mean(axis=0) >= _VARIED)
    scale = {}
    if varied.any():
        offsets = np.abs(held_out.mean(axis=0) - train.mean(axis=0))[varied] / spread[varied]
        scale["validation_scale"] = float(np.median(other[varied] / spread[varied]))
        scale["validation_offset"] = float(np.median(offsets))
    distances, quantile = _distances(train[:, used], held_out[:, used])
    worst = int(distances.argmax())
    return scale | {
        "shifted_feature": float(features[used][worst]),
        "feature_shift": float(distances[worst]),
        "feature_shift_noise": quantile,
    }


def _distances(train: Floats, held_out: Floats) -> tuple[Floats, float]:
    """Return the Kolmogorov–Smirnov distance of each column, and what the largest exceeds with probability 0.001."""
    distances = np.empty(train.shape[1])
    for column in range(train.shape[1]):
        a, b = np.sort(train[:, column]), np.sort(held_out[:, column])
        both = np.concatenate([a, b])
        gaps = np.searchsorted(a, both, side="right") / len(a) - np.searchsorted(b, both, side="right") / len(b)
        distances[column] = np.abs(gaps).max()
    level = 0.001 / max(1, train.shape[1])  # Bonferroni
    quantile = math.sqrt(-math.log(level / 2) / 2 * (1 / len(train) + 1 / len(held_out)))
    return distances, quantile


def _columns(train: NDArray[Any], held_out: NDArray[Any]) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return some rows and columns of both arrays, and the numbers of these columns."""
    parts = []
    for array in (train, held_out):
        rows = np.unique(np.linspace(0, len(array) - 1, min(len(array), _ROWS)).astype(int))
        flat = array.reshape(len(array), -1)  # a view, unless the array is not contiguous
        chosen = np.unique(np.linspace(0, flat.shape[1] - 1, min(flat.shape[1], _COLUMNS)).astype(int))
        parts.append(np.nan_to_num(flat[np.ix_(rows, chosen)].astype(np.float64), posinf=0.0, neginf=0.0))
    return parts[0], parts[1], chosen.astype(np.int64)
