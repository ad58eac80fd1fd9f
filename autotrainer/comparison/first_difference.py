"""Where two runs with the same start part, by more than rounding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotrainer.comparison.compared_run import ComparedRun
from autotrainer.comparison.curves import epoch_values
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, Floats
from autotrainer.reporting.comparison import Deviation

__all__ = ["FirstDifference", "causal_rank", "first_difference"]

_EQUAL, _ROUNDING, _TINY = 1e-5, 1e-3, 1e-6
"""Relative difference up to which initial weights are equal, and up to which later values differ by rounding alone,
which grows from step to step; and share of the largest value of a statistic below which a difference is none."""
_OF_BATCH = (2, 3, 4, 5)
"""Ranks of what depends on the batch, too: fine-tuned models start alike for each seed, but with other batches."""
_UNCOMPARED = frozenset({"loss_scale"})


@dataclass(frozen=True, slots=True)
class FirstDifference:
    """How two runs part.

    Attributes:
        paired: Whether the runs belong together, as with equal seeds: most layers with weights have equal norms at the
            first common step, and the runs are equal there, or what differs is not due to other data.
        identical: Whether no value differs at any step, and both runs have as many.
        deviation: The first difference; None if there is none.
    """

    paired: bool
    identical: bool
    deviation: Deviation | None


def first_difference(baseline: ComparedRun, run: ComparedRun, matches: Mapping[int, int]) -> FirstDifference | None:
    """Compare two runs at the steps that both have sampled.

    Args:
        baseline: The run of the baseline.
        run: The run.
        matches: Index of the baseline's layer by index of the run's.

    Returns:
        The first difference; None without a common step or a matched layer.
    """
    steps = np.intersect1d(baseline.history.steps, run.history.steps)
    if not len(steps) or not matches:
        return None
    old_rows, new_rows = (np.searchsorted(side.history.steps, steps) for side in (baseline, run))
    new_layers, old_layers = np.array(list(matches)), np.array(list(matches.values()))
    tables = []
    for column in LAYER_COLUMNS:
        old = baseline.history.layer(column)[np.ix_(old_rows, old_layers)]
        tables.append((column, old, run.history.layer(column)[np.ix_(new_rows, new_layers)]))
    scalars = []
    for column in STEP_COLUMNS:
        if column not in _UNCOMPARED:
            old = baseline.history.scalar(column)[old_rows, None]
            scalars.append((column, old, run.history.scalar(column)[new_rows, None]))
    same_start = _same_start(run, new_layers, tables)
    columns = [*tables, *scalars]
    gaps = [_gaps(old, new) for _, old, new in columns]
    apart = np.array([gap.max(axis=1) > _ROUNDING if gap.shape[1] else np.zeros(len(steps), bool) for gap in gaps])
    parted = np.flatnonzero(apart.any(axis=0))
    same_length = baseline.history.step == run.history.step and np.array_equal(
        baseline.history.steps[-1:], run.history.steps[-1:]
    )
    if not len(parted):
        other = _other_difference(baseline.history, run.history)
        return FirstDifference(same_start, bool(same_length) and other is None, other)
    at = int(parted[0])
    which = min(np.flatnonzero(apart[:, at]), key=lambda c: (causal_rank(columns[c][0]), -float(gaps[c][at].max())))
    column, old, new = columns[which]
    # what a layer puts out changes that of all later ones, and its weights those of none
    layer = int((gaps[which][at] > _ROUNDING if column.startswith("activation") else gaps[which][at]).argmax())
    deviation = Deviation(
        step=int(steps[at]),
        layer=run.context.layers[new_layers[layer]].name if which < len(tables) else "",
        statistic=column,
        value=float(new[at, layer]),
        baseline=float(old[at, layer]),
        sigmas=math.nan,
        lasting=bool(apart[which, at:].all()),
    )
    paired = same_start and (at > 0 or causal_rank(column) not in _OF_BATCH)
    return FirstDifference(paired, False, deviation)


def _other_difference(baseline: RunHistory, run: RunHistory) -> Deviation | None:
    """Return the first difference of values beside those of sampled steps: losses of all steps, values of epochs."""
    curves = [("loss", baseline.losses, run.losses)]
    curves += [
        (name, epoch_values(baseline, name, baseline.step), epoch_values(run, name, run.step))
        for name in run.epoch_names
    ]
    first: Deviation | None = None
    for name, (old_steps, old), (new_steps, new) in curves:
        steps, old_rows, new_rows = np.intersect1d(old_steps, new_steps, return_indices=True)
        apart = _gaps(old[old_rows, None], new[new_rows, None])[:, 0] > _ROUNDING
        if not apart.any():
            continue
        at = int(apart.argmax())
        if first is None or steps[at] < first.step:
            values = float(new[new_rows[at]]), float(old[old_rows[at]])
            first = Deviation(int(steps[at]), "", name, *values, math.nan, bool(apart[at:].all()))
    return first


def causal_rank(statistic: str) -> int:
    """Return where a statistic stands in the order of causes within a step: settings, weights, data, outputs, …."""
    if statistic in ("learning_rate", "batch_size"):
        return 0
    if statistic == "weight_norm" or (statistic.endswith("_rms") and "grad" not in statistic):
        return 3 if statistic.startswith("normalized") else 1
    if statistic.startswith(("input_", "target_", "class_entropy")):
        return 2
    if statistic.startswith(("activation_", "attention_", "head_", "normalized", "dead_", "dormant", "saturated")):
        return 3
    if "grad" in statistic:
        return 5
    return 6 if statistic in ("update_ratio", "second_moment_ratio") else 4


def _same_start(run: ComparedRun, layers: NDArray[np.int64], tables: list[tuple[str, Floats, Floats]]) -> bool:
    """Return whether most layers whose weights are drawn have equal norms at the first common step.

    The norm of a normalization layer's weights is the same for each seed.
    """
    _, old, new = tables[LAYER_COLUMNS.index("weight_norm")]
    drawn = np.array([run.context.layers[i].kind != "norm" for i in layers])
    drawn &= (old[0] > 0) & (new[0] > 0) & np.isfinite(old[0]) & np.isfinite(new[0])
    return bool(drawn.any() and np.mean(_gaps(old[:1], new[:1])[0][drawn] <= _EQUAL) > 0.5)


def _gaps(old: Floats, new: Floats) -> NDArray[np.float64]:
    """Return the relative differences of two tables; 0 where one of them was not measured."""
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.maximum(np.abs(old), np.abs(new))
        finite = np.where(np.isfinite(size), size, 0.0)
        least = _TINY * (finite.max(axis=0, initial=0.0) if len(finite) else 0.0)
        gaps = np.abs(old - new) / np.maximum(size, 1e-300)
        gaps = np.where(np.abs(old - new) <= least, 0.0, gaps)
        gaps = np.where(np.isinf(old) != np.isinf(new), 1.0, np.where(np.isinf(old), 0.0, gaps))
    return np.where(np.isnan(old) | np.isnan(new), 0.0, np.nan_to_num(gaps))
