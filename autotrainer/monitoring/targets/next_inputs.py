"""Whether the targets of sequences are their next inputs, or their inputs themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.task import MASKED

__all__ = ["next_targets"]

_FEWEST_STEPS = 4
"""Steps of a sequence that show whether the targets are the next inputs."""


def next_targets(inputs: NDArray[Any], targets: NDArray[Any], *, by_steps: bool = False) -> float:
    """Return 1 if targets are the inputs one step later, 2 if those of the same step, 0 if neither; NaN if unknown.

    Args:
        inputs: Inputs of sequences, shape (rows, steps).
        targets: Their targets, of the same shape or one after the other.
        by_steps: Whether the first axis may also be that of the steps. Of values in order of time, such as windows of a
            series, each row may be what follows on the one before, which no model can look at.
    """
    inputs, targets = (
        rows.reshape(len(rows), -1) if rows.ndim == 3 and 1 in rows.shape[1:] else rows for rows in (inputs, targets)
    )
    if inputs.ndim == 2 and targets.ndim == 1:  # tokens of all rows, one after the other
        width = max(1, inputs.shape[1])
        rows = min(len(inputs), len(targets) // width)
        inputs, targets = inputs[:rows], targets[: rows * width].reshape(rows, width)
    rows = min(len(inputs), len(targets))
    inputs, targets = inputs[:rows], targets[:rows]
    if inputs.ndim != 2 or not targets.size or inputs.shape != targets.shape:
        return float("nan")
    pairs = [(inputs, targets), *([(inputs.T, targets.T)] if by_steps else [])]
    verdicts = [_follow(*pair) for pair in pairs if pair[0].shape[1] >= _FEWEST_STEPS]
    known = [verdict for verdict in verdicts if not np.isnan(verdict)]
    return max(known) if known else float("nan")


def _follow(inputs: NDArray[Any], targets: NDArray[Any]) -> float:
    counted = targets[:, :-1] != MASKED
    if not counted.any() or (inputs[:, 1:] == inputs[:, :-1])[counted].all():
        return float("nan")  # nothing changes
    if (targets[:, :-1] == inputs[:, :-1])[counted].all():
        return 2.0
    return float((targets[:, :-1] == inputs[:, 1:])[counted].all())
