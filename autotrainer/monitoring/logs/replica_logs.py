"""Compares the run logs of the processes of a distributed training: their weights and their batches.

For processes that were watched one by one, and exchanged nothing while they trained. The weight norms of all layers at
the same step serve as checksums of the weights, and statistics of inputs and targets as checksums of the batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats

__all__ = ["compare_replicas", "same_batches", "same_model"]

_BATCH = ("input_max_abs", "target_min", "target_max", "target_spread", "class_entropy")
"""Columns that depend only on the data of one batch."""

_MIN_BATCHES = 8
"""Minimum number of distinct batches for equal batches in two processes not to be a coincidence."""


def same_model(one: RunHistory, other: RunHistory) -> bool:
    """Return whether two histories have layers of the same kinds and sizes; names differ, as Keras numbers them."""
    kinds = [[(layer.kind, layer.parameters) for layer in history.layers] for history in (one, other)]
    return kinds[0] == kinds[1]


def compare_replicas(history: RunHistory, others: Sequence[RunHistory], *, sharded: bool = False) -> dict[str, float]:
    """Compare a history with those of other processes at the steps that all of them measured.

    Args:
        history: The history.
        others: Histories of the other processes, of the same model.
        sharded: Whether each process holds parts of the weights: then these differ by design.

    Returns:
        The facts of `autotrainer.records.facts.FACTS` that begin with ``replica``; empty without a common step.
    """
    steps = reduce(np.intersect1d, [other.steps for other in others], history.steps)
    if not others or not len(steps):
        return {}
    norms = _weight_norms(history, steps[-1])
    gaps = np.zeros(len(norms))
    for other in others:
        other_norms = _weight_norms(other, steps[-1])
        with np.errstate(all="ignore"):
            relative = np.abs(norms - other_norms) / np.maximum(norms, other_norms)
        relative[np.isinf(norms) != np.isinf(other_norms)] = 1.0
        gaps = np.fmax(gaps, np.where(norms == other_norms, 0.0, relative))
    has_weights = norms > 0
    facts = {"replicas": 1.0 + len(others), "replica_steps": float(len(steps))}
    if has_weights.any() and not sharded:
        gaps[~has_weights] = 0.0
        facts |= {"replica_gap": float(np.median(gaps[has_weights])), "replica_worst_gap": float(gaps.max())}
        facts["replica_layer"] = float(gaps.argmax())
    batches = _batches(history, steps)
    if len(np.unique(batches, axis=0)) >= _MIN_BATCHES:
        twins = [np.array_equal(batches, _batches(other, steps)) for other in others]
        facts["replica_twins"] = float(np.mean(twins))
    return facts


def same_batches(history: RunHistory, other: RunHistory) -> float:
    """Return the share of the steps measured in both runs that had the same batch; NaN without enough of them."""
    steps = np.intersect1d(history.steps, other.steps)
    batches = [_batches(each, steps) for each in (history, other)]
    if not len(steps) or len(np.unique(batches[0], axis=0)) < _MIN_BATCHES:
        return float("nan")
    return float((batches[0] == batches[1]).all(axis=1).mean())


def _weight_norms(history: RunHistory, step: np.int64) -> Floats:
    norms: Floats = history.layer("weight_norm")[np.searchsorted(history.steps, step)]
    return norms


def _batches(history: RunHistory, steps: NDArray[np.int64]) -> Floats:
    rows = np.searchsorted(history.steps, steps)
    return np.nan_to_num(np.stack([history.scalar(name)[rows] for name in _BATCH], axis=1), nan=-1.0)
