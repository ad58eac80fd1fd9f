"""Compares the logs of processes that train one model together: their weights, and the batches that they had.

Nothing is exchanged while they train. The norms of all layers' weights at the same step are checksums of a kind, equal
where the weights are, and what is logged of inputs and targets tells batches apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats

__all__ = ["compare_replicas", "same_model"]

_BATCH = ("input_max_abs", "target_min", "target_max", "target_spread", "class_entropy")
"""Columns that describe the data of one batch and nothing else."""

_BATCHES = 8
"""Batches that must differ from one another, and be equal to those of the other process, for it to be no chance."""


def same_model(one: RunHistory, other: RunHistory) -> bool:
    """Say whether two histories have the same layers, of the same sizes; Keras counts on in their names."""
    kinds = [[(layer.kind, layer.parameters) for layer in history.layers] for history in (one, other)]
    return kinds[0] == kinds[1]


def compare_replicas(history: RunHistory, others: Sequence[RunHistory]) -> dict[str, float]:
    """Compare a history with those of other processes at the steps that all of them have measured.

    Args:
        history: The history.
        others: Histories of the other processes, of the same model.

    Returns:
        Of `autotrainer.records.facts.FACTS`: those that begin with ``replica``; nothing where no step is common.
    """
    steps = reduce(np.intersect1d, [other.steps for other in others], history.steps)
    if not others or not len(steps):
        return {}
    own = _weights(history, steps[-1])
    gaps = np.zeros(len(own))
    for other in others:
        theirs = _weights(other, steps[-1])
        with np.errstate(all="ignore"):
            apart = np.abs(own - theirs) / np.maximum(own, theirs)
        apart[np.isinf(own) != np.isinf(theirs)] = 1.0
        gaps = np.fmax(gaps, np.where(own == theirs, 0.0, apart))
    known = own > 0  # layers with weights of their own
    facts = {"replicas": 1.0 + len(others), "replica_steps": float(len(steps))}
    if known.any():
        gaps[~known] = 0.0
        facts |= {"replica_gap": float(np.median(gaps[known])), "replica_worst_gap": float(gaps.max())}
        facts["replica_layer"] = float(gaps.argmax())
    batches = _batches(history, steps)
    if len(np.unique(batches, axis=0)) >= _BATCHES:
        twins = [np.array_equal(batches, _batches(other, steps)) for other in others]
        facts["replica_twins"] = float(np.mean(twins))
    return facts


def _weights(history: RunHistory, step: np.int64) -> Floats:
    norms: Floats = history.layer("weight_norm")[np.searchsorted(history.steps, step)]
    return norms


def _batches(history: RunHistory, steps: NDArray[np.int64]) -> Floats:
    rows = np.searchsorted(history.steps, steps)
    return np.nan_to_num(np.stack([history.scalar(name)[rows] for name in _BATCH], axis=1), nan=-1.0)
