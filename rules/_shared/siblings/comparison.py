"""Comparing siblings by one statistic: residuals of a table of roles by blocks, robust against outliers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats
from autotrainer.rules._shared.siblings.blocks import Component, Stack
from autotrainer.rules._shared.trends import geometric_mean

__all__ = ["Outlier", "lasting_outliers", "median_polish", "series_of"]

_SWEEPS = 6
"""Sweeps of a median polish; it hardly changes after three (Tukey 1977, chapter 11)."""

_FAR = 5.0
"""Residual ÷ robust standard deviation of all residuals from which it is an outlier, whatever the size: with normal
residuals, one in two million."""

_CHUNKS = 3
"""Parts of the run of equal numbers of samples, in each of the last two of which an outlier must be one."""

_MIN_SAMPLES = 5
"""Fewest samples: two in each of these parts."""

_MIN_BLOCKS = 3
"""Fewest blocks in which one differs from the others, rather than two from each other."""

_MIN_ROLES = 4
"""Fewest roles that show, in two blocks, which of them differs: the others do not."""

_DEPTH = 4
"""Blocks from which a trend over depth is compared with, rather than a level."""


@dataclass(frozen=True, slots=True)
class Outlier:
    """A component apart from its siblings.

    Attributes:
        component: The component.
        value: Its present value.
        usual: Median of its siblings' present values.
        ratio: By what factor it differs from what role and block let expect: below 1 if it is too small.
    """

    component: Component
    value: float
    usual: float
    ratio: float


def series_of(history: RunHistory, component: Component, column: str) -> Floats:
    """Return a statistic of a component over the sampled steps, shape (samples,).

    Args:
        history: The history.
        component: The component.
        column: ``weight``, ``gradient`` or ``bias`` (root mean squares), or one of `LAYER_COLUMNS`, which parts do not
            have.
    """
    row, part = component.row, component.part
    if column in ("weight", "gradient"):
        name = ("weight_rms", f"{part}_rms") if column == "weight" else ("weight_grad_rms", f"{part}_grad_rms")
        values = history.layer(name[bool(part)])[:, row]
        if part or not np.isnan(history.layer("weight_rms")[:, row]).all():
            return values
        vectors = history.layer("weight_norm" if column == "weight" else "grad_norm")[:, row]
        return vectors / math.sqrt(max(history.layers[row].parameters, 1))
    return history.layer("bias_rms" if column == "bias" else column)[:, row]


def median_polish(table: Floats) -> Floats:
    """Return the residuals of a two-way table after its row and column medians (Tukey 1977); NaN stays NaN.

    Args:
        table: Shape (roles, blocks).
    """
    rest = table.copy()
    for _ in range(_SWEEPS):
        for axis in (1, 0):
            rest = rest - _medians(rest, axis)
    return rest


def lasting_outliers(
    history: RunHistory,
    stack: Stack,
    column: str,
    ratio: float,
    *,
    ends: float = 1.0,
    side: int = 0,
    choose: Callable[[Component], bool] = lambda _: True,
) -> list[Outlier]:
    """Return the components that lie apart from their siblings over most of the run.

    Levels of roles and blocks are taken out first, on a logarithmic scale, so that a role that is small by nature, or a
    trend over depth, is none.

    Args:
        history: The history.
        stack: The blocks.
        column: See `series_of`.
        ratio: Factor from which a component is an outlier.
        ends: Factor on ``ratio`` in the first and last block, which work on embeddings and for the head.
        side: -1 if only too small values count, 1 if only too large ones do, else 0.
        choose: Which components to compare.
    """
    table = [[c if c is not None and choose(c) else None for c in line] for line in stack.table]
    pair = len(stack.blocks) < _MIN_BLOCKS
    table = [line for line in table if sum(c is not None for c in line) >= min(_MIN_BLOCKS, len(stack.blocks))]
    if len(table) < (_MIN_ROLES if pair else 1) or len(history.steps) < _MIN_SAMPLES:
        return []
    series = np.full((len(history.steps), len(table), len(stack.blocks)), np.nan)
    for i, line in enumerate(table):
        for j, component in enumerate(line):
            if component is not None:
                series[:, i, j] = series_of(history, component, column)
    edges = np.linspace(0, len(series), _CHUNKS + 1).astype(int)[1:]
    late = [geometric_mean(series[begin:end]) for begin, end in itertools.pairwise(edges)]
    signs = [_apart(values, ratio, ends) for values in late]
    if pair:
        signs = [sign * _stranger(values) for sign, values in zip(signs, late, strict=True)]
    outliers = []
    for i, j in np.argwhere((signs[0] != 0) & np.all([sign == signs[0] for sign in signs], axis=0)):
        component = table[i][j]
        if component is None or side * signs[0][i, j] < 0:
            continue
        now = late[-1][i]
        usual = _median(np.delete(now, j))
        residual = _residuals(late[-1])[i, j]
        outliers.append(Outlier(component, float(now[j]), usual, math.exp(float(np.clip(residual, -700, 700)))))
    return sorted(outliers, key=lambda outlier: -abs(math.log(outlier.ratio)))


def _residuals(values: Floats) -> Floats:
    """Return the residuals of the logarithms of a table of positive values; NaN for others."""
    with np.errstate(all="ignore"):
        logs = np.where(np.isfinite(values) & (values > 0), np.log(np.where(values > 0, values, 1.0)), np.nan)
    rest = median_polish(logs) if len(logs) > 1 else logs - _median(logs[0])
    if logs.shape[1] < _MIN_BLOCKS:
        return 2 * rest  # the median of two lies half way
    if logs.shape[1] < _DEPTH:
        return rest
    # A role whose level changes with depth differently from the others: no outlier on the line through its neighbours.
    return np.sign(rest) * np.fmin(np.abs(rest), np.abs(rest - _from_neighbours(rest)))


def _from_neighbours(values: Floats) -> Floats:
    """Return for each cell what the two nearest cells of its row let expect, on a line; NaN where one is unknown."""
    expected = np.full_like(values, np.nan)
    expected[:, 1:-1] = (values[:, :-2] + values[:, 2:]) / 2
    expected[:, 0] = 2 * values[:, 1] - values[:, 2]
    expected[:, -1] = 2 * values[:, -2] - values[:, -3]
    return expected


def _apart(values: Floats, ratio: float, ends: float) -> Floats:
    """Return for each cell 1 if it is too large, -1 if it is too small, else 0."""
    rest = _residuals(values)
    finite = rest[np.isfinite(rest)]
    spread = 1.4826 * _median(np.abs(finite)) if finite.size else math.nan
    limits = np.full(values.shape[1], math.log(ratio))
    limits[[0, -1]] += math.log(ends)
    limits = np.fmax(limits, _FAR * spread if len(limits) >= _MIN_BLOCKS else 0.0)
    return np.where(np.abs(rest) > limits[None], np.sign(rest), 0.0)


def _stranger(values: Floats) -> Floats:
    """Return 1 for the one of two blocks, in each role, that is farther from the median of all roles; else 0."""
    with np.errstate(all="ignore"):
        far = np.abs(np.log(values) - _median(np.log(values).ravel()))
    far = np.where(np.isfinite(far), far, -1.0)
    return np.asarray(far == far.max(axis=1, keepdims=True), np.float64)


def _medians(values: Floats, axis: int) -> Floats:
    """Return the medians of the finite values along an axis, which stays; 0 where there are none."""
    ordered = np.sort(np.where(np.isfinite(values), values, np.inf), axis=axis)
    count = np.isfinite(values).sum(axis=axis, keepdims=True)
    low, high = (np.take_along_axis(ordered, np.maximum(at, 0), axis) for at in ((count - 1) // 2, count // 2))
    return np.where(count > 0, (low + np.where(np.isfinite(high), high, low)) / 2, 0.0)


def _median(values: Floats) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else math.nan
