"""Statistics of layers over the steps of a run: a table of layers by columns of steps for each of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.findings import Finding
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats

__all__ = ["OVER_STEPS", "LayerCharts", "layer_charts"]

OVER_STEPS = ("grad_norm", "update_ratio", "dead_units", "saturated")
"""Statistics that are kept over the steps."""

FIRST_AND_LAST = (
    *("activation_mean_abs", "activation_std", "activation_max_abs", "activation_spread", "weight_norm"),
    *OVER_STEPS,
)
"""Statistics of which the first and the last measured value are kept."""

MAX_ROWS, MAX_COLUMNS = 48, 96
"""Layers and columns of steps: what a screen shows, and some 100 kB of the report."""

_DIGITS = 3

Row = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LayerCharts:
    """Statistics of the layers of one run; NaN where nothing was measured, infinity where it was not finite.

    Attributes:
        names: The layers, in forward order: the rows.
        more_layers: Number of measured layers that were left out: those that no finding names, and that differ least
            from the others.
        steps: (first, last) sampled step of each column; several samples share one if there are many.
        over_steps: By statistic, its highest value in each column, one row per layer. Only what was measured.
        first_and_last: By statistic, its first and its last measured value, one pair per layer. Only what was measured.
    """

    names: tuple[str, ...]
    more_layers: int
    steps: tuple[tuple[int, int], ...]
    over_steps: Mapping[str, tuple[Row, ...]]
    first_and_last: Mapping[str, tuple[tuple[float, float], ...]]


def layer_charts(history: RunHistory, findings: Sequence[Finding] = ()) -> LayerCharts | None:
    """Return the statistics of the layers; None if none was measured.

    Args:
        history: The measurements.
        findings: The findings: the layers that they name are kept first.
    """
    if not len(history.steps) or not history.layers:
        return None
    edges = np.linspace(0, len(history.steps), min(MAX_COLUMNS, len(history.steps)) + 1).round().astype(int)
    highest = {name: _highest(history.layer(name), edges) for name in OVER_STEPS}
    measured = np.any([~np.isnan(table).all(axis=1) for table in highest.values()], axis=0)
    if not measured.any():
        return None
    rows = _selected(highest, np.flatnonzero(measured), [info.name for info in history.layers], findings)
    ends = {name: _first_and_last(history.layer(name)[:, rows]) for name in FIRST_AND_LAST}
    return LayerCharts(
        names=tuple(history.layers[row].name for row in rows),
        more_layers=int(measured.sum()) - len(rows),
        steps=tuple((int(history.steps[a]), int(history.steps[b - 1])) for a, b in pairwise(edges)),
        over_steps={k: _rounded(table[rows]) for k, table in highest.items() if not np.isnan(table[rows]).all()},
        first_and_last={k: _rounded(pair) for k, pair in ends.items() if not np.isnan(pair).all()},  # type: ignore[misc]
    )


def _highest(values: Floats, edges: NDArray[np.int_]) -> Floats:
    """Return the highest value of each layer in each stretch of samples, shape (layers, stretches)."""
    highest: Floats = np.fmax.reduceat(values, edges[:-1], axis=0)
    return highest.T


def _selected(
    tables: Mapping[str, Floats], measured: NDArray[np.int_], names: Sequence[str], findings: Sequence[Finding]
) -> NDArray[np.int_]:
    """Return the rows that are kept, in forward order: the layers of findings, then those that differ most."""
    if len(measured) <= MAX_ROWS:
        return measured
    named: dict[str, None] = {}
    for finding in findings:  # a finding that names hundreds leaves room for the others
        named |= dict.fromkeys(finding.layers[: MAX_ROWS // 4])
    first = [row for row in measured if names[row] in named][: MAX_ROWS // 2]
    oddness = np.max([_oddness(table[measured]) for table in tables.values()], axis=0)
    order = [*first, measured[0], measured[-1], *measured[np.argsort(-oddness, kind="stable")]]
    return np.sort(list(dict.fromkeys(int(row) for row in order))[:MAX_ROWS])


def _oddness(table: Floats) -> Floats:
    """Return by how much each layer differs from the median layer where it differs most, in units of their spread."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns and rows without any value
        scale = np.log10(np.maximum(np.where(np.isinf(table), np.finfo(float).max, table), 1e-30))
        distance = np.abs(scale - np.nanmedian(scale, axis=0))
        relative = distance / max(float(np.nanmedian(distance)), 1e-3)
        most: Floats = np.nanmax(relative, axis=1)
    return np.nan_to_num(most)


def _first_and_last(values: Floats) -> Floats:
    """Return the first and last measured value of each layer, shape (layers, 2)."""
    known = ~np.isnan(values)
    columns = np.arange(values.shape[1])
    first, last = known.argmax(axis=0), len(values) - 1 - known[::-1].argmax(axis=0)
    return np.stack([values[first, columns], values[last, columns]], axis=1)


def _rounded(table: Floats) -> tuple[Row, ...]:
    return tuple(tuple(float(f"{value:.{_DIGITS}g}") for value in row) for row in table.tolist())
