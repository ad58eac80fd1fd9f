"""What baseline models are fitted on: features and targets in tabular form, of tables, images, tokens and sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.diagnostics.baseline_models import TabularProblem
from autotrainer.records.data import ArrayData, arrays_of
from autotrainer.records.signals import Floats
from autotrainer.records.task import MASKED, TargetSummary, TaskContext
from autotrainer.training.missing_values import missing_codes

__all__ = ["features", "make_problem", "steps_per_row", "target_columns"]

_MAX_FEATURES = 4096
"""Maximum features of a row: with more, a linear model on a thousand rows says nothing."""
_BINS, _STEP_BINS = 1024, 512
"""Columns in which tokens are counted, by their index modulo this number: those of a row, and those of a time step."""
_COLUMNS = 256
"""Maximum columns of numeric targets or labels: evenly spaced ones."""
_WINDOW = 3
"""Time steps whose inputs predict the label of a step: itself and those before it. A later one may be its label."""


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
        The problem, with a row for each time step of sequences with a class per step; None if targets have another
        form, if there are too many features, or no variation.
    """
    kind = context.kind(targets)
    if kind == "unknown":
        return None
    classes = kind in ("multiclass", "binary")
    if classes and steps_per_row(train.targets, targets) > 1:
        return _steps_problem(train, held_out, targets, context)
    inputs, held = (features(data.inputs, tokens=context.input_kind == "index") for data in (train, held_out))
    if inputs is None or held is None or inputs.shape[1] != held.shape[1]:
        return None
    columns, chosen = _classes(train, held_out, targets) if classes else None, None
    if not classes:
        columns, chosen = _numbers(train, held_out)
    if columns is None:
        return None
    code = 0
    if kind == "regression" and _reconstructs(train):
        code = _code_size(context, inputs.shape[1])
        if not code:
            return None  # the inputs give the targets away
    rows = np.arange(held_out.rows)
    return _problem(
        (inputs, held), columns, rows, classes=classes, labels=kind == "multilabel", code=code, columns=chosen
    )


def steps_per_row(labels: NDArray[Any], targets: TargetSummary) -> int:
    """Return the number of labels of a row, if targets are classes."""
    width = labels.shape[-1] if targets.one_hot and labels.ndim > 1 else 1
    return labels.size // max(1, len(labels) * width)


def target_columns(labels: NDArray[Any], targets: TargetSummary, context: TaskContext) -> int:
    """Return the largest number of columns that the targets of a problem may have."""
    if context.kind(targets) in ("multiclass", "binary"):
        return max(2, targets.width if targets.one_hot else targets.classes)
    return min(_COLUMNS, labels.size // max(1, len(labels)))


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


def _problem(
    inputs: tuple[Floats, Floats], targets: list[Floats], rows: NDArray[np.int64], *, classes: bool, **options: Any
) -> TabularProblem | None:
    """Return a problem with standardized features, without masked rows and targets that are not finite."""
    kept = [(y != MASKED).any(axis=1) if classes else np.isfinite(y).all(axis=1) for y in targets]
    (x, y), (held_x, held_y) = ((x[k], y[k]) for x, y, k in zip(inputs, targets, kept, strict=True))
    x, held_x = _filled(x, held_x)
    spread = x.std(axis=0) if len(x) else np.zeros(0)
    varying = spread > 1e-8 * np.maximum(np.abs(x).max(axis=0, initial=0), 1e-30)
    if not varying.any() or not len(held_x) or not y.var(axis=0).any():
        return None
    mean, spread = x[:, varying].mean(axis=0), spread[varying]
    scaled = [((part[:, varying] - mean) / spread).clip(-10, 10) for part in (x, held_x)]
    return TabularProblem(scaled[0], y, scaled[1], held_y, classes, held_rows=rows[kept[1]], **options)


def _filled(x: Floats, held_x: Floats) -> tuple[Floats, Floats]:
    """Return inputs with means in place of numbers that stand for missing values in the first ones."""
    codes = missing_codes(x)
    if not codes:
        return x, held_x
    x, held_x = x.copy(), held_x.copy()
    for column in {code.column for code in codes}:
        values = [code.value for code in codes if code.column == column]
        mean = x[~np.isin(x[:, column], values), column].mean()
        for part in (x, held_x):
            part[np.isin(part[:, column], values), column] = mean
    return x, held_x


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
    return _indicators(labels)


def _indicators(labels: list[NDArray[Any]]) -> list[Floats]:
    classes = np.unique(labels[0][labels[0] != MASKED])
    indicators = [(part[:, None] == classes).astype(np.float64) for part in labels]
    for part, rows in zip(labels, indicators, strict=True):
        rows[part == MASKED] = MASKED
    return indicators


def _numbers(train: ArrayData, held_out: ArrayData) -> tuple[list[Floats] | None, NDArray[np.int64] | None]:
    """Return numeric targets, and which of their columns these are."""
    columns = [data.targets.reshape(len(data.targets), -1) for data in (train, held_out)]
    width = columns[0].shape[1]
    if columns[1].shape[1] != width:
        return None, None
    chosen = np.unique(np.linspace(0, width - 1, min(width, _COLUMNS)).astype(int))
    return [part[:, chosen].astype(np.float64) for part in columns], chosen


def _reconstructs(train: ArrayData) -> bool:
    """Return whether the targets are the inputs."""
    arrays = list(arrays_of(train.inputs))
    if len(arrays) != 1 or arrays[0].size != train.targets.size or arrays[0].dtype.kind not in "biuf":
        return False
    inputs, targets = arrays[0].reshape(-1), train.targets.reshape(-1)
    rounding = 1e-5 * float(np.nanmax(np.abs(inputs), initial=0))  # of targets that a loss has shown
    return bool(np.allclose(inputs, targets, atol=rounding, equal_nan=True))


def _code_size(context: TaskContext, width: int) -> int:
    """Return how many numbers a network of dense layers can keep of each row that it reconstructs, for a comparison.

    These are the units of its narrowest hidden layer. Without a bottleneck it can copy its inputs: half as many numbers
    are a cautious value, and 0 (no comparison) is one where dropout or penalties are there to prevent a copy. Nor is
    there a comparison if the loss has other terms, as the divergence of a variational autoencoder has its price.
    """
    if context.loss.composite:
        return 0
    layers = [layer for layer in context.layers if layer.parameters and layer.kind != "norm"]
    units = [layer.units or 0 for layer in layers if layer.hidden]
    if not units or min(units) == 0 or any(layer.kind != "dense" for layer in layers):
        return 0
    if min(units) < width:
        return min(units)
    return 0 if context.dropout or context.penalized else (width + 1) // 2


def _steps_problem(
    train: ArrayData, held_out: ArrayData, targets: TargetSummary, context: TaskContext
) -> TabularProblem | None:
    """Return a problem with a row for each time step, or None if inputs do not have the time steps of the targets."""
    windows, labels = [], []
    for data in (train, held_out):
        steps = steps_per_row(data.targets, targets)
        arrays = list(arrays_of(data.inputs))
        if len(arrays) != 1 or arrays[0].ndim < 2 or arrays[0].shape[1] != steps:
            return None
        windows.append(_step_features(arrays[0], tokens=context.input_kind == "index"))
        one_hot = targets.one_hot and data.targets.ndim == 3
        labels.append((data.targets.argmax(axis=-1) if one_hot else data.targets).reshape(-1))
    rows = np.repeat(np.arange(held_out.rows), steps_per_row(held_out.targets, targets))
    if windows[0] is None or windows[1] is None or windows[0].shape[1] != windows[1].shape[1]:
        return None
    return _problem((windows[0], windows[1]), _indicators(labels), rows, classes=True)


def _step_features(array: NDArray[Any], *, tokens: bool) -> Floats | None:
    """Return the features of each time step and of those just before it, shape (rows × steps, features)."""
    if tokens and array.dtype.kind in "iu" and array.ndim == 2:
        steps = np.zeros((*array.shape, _STEP_BINS))
        np.put_along_axis(steps, (array % _STEP_BINS)[..., None].astype(np.int64), 1.0, axis=-1)
    elif array.dtype.kind in "biuf":
        flat = array.reshape(*array.shape[:2], -1).astype(np.float64)
        steps = np.nan_to_num(flat, posinf=0.0, neginf=0.0)
    else:
        return None
    if steps.shape[-1] * _WINDOW > _MAX_FEATURES:
        return None
    shifted = [np.pad(steps, ((0, 0), (lag, 0), (0, 0)))[:, : steps.shape[1]] for lag in range(_WINDOW)]
    return np.concatenate(shifted, axis=-1).reshape(steps.shape[0] * steps.shape[1], -1)
