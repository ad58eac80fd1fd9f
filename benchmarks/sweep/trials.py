"""Trials by how they end: healthy, sick, or between."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.execution.pool import Row

__all__ = ["HEALTHY", "SICK", "best_score", "progress_of", "stopped_early"]

HEALTHY, SICK = 0.5, 0.1
"""Least way of a healthy trial, and greatest of a sick one, from the trivial accuracy to the best one of the space."""


def best_score(trials: Sequence[Row]) -> float:
    """Return the best final score; NaN if no trial has one."""
    return max((t["values"][-1] for t in trials if not math.isnan(t["values"][-1])), default=math.nan)


def progress_of(row: Row) -> list[float]:
    """Return for each trial of a space the way that it has gone, from 0 for the most frequent class to 1 for the best.

    Args:
        row: What `benchmarks.sweep.run` returns of the space.
    """
    trivial, best = row["trivial"], best_score(row["trials"])
    finals = [trial["values"][-1] for trial in row["trials"]]
    return [(v - trivial) / (best - trivial) if best > trivial and not math.isnan(v) else -math.inf for v in finals]


def stopped_early(trial: Row) -> bool:
    """Return whether a trial would have been stopped before its last epoch."""
    return trial["stopped"] is not None and trial["stopped"] < len(trial["values"])
