"""Probe: is an evaluation repeatable?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotrainer.diagnostics.probes.calls import Calls, Fields, NotComparableError, largest_change
from autotrainer.records.facts import NOISE_SOURCES
from autotrainer.records.signals import Floats

__all__ = ["probe_repeatability"]

_ROUNDING = 1e-5
"""Largest relative difference between two computations of one added loss: a hundred times the error of float32."""


def probe_repeatability(calls: Calls, fields: Fields) -> dict[str, float]:
    """Call the model repeatedly on the same rows: with the same random numbers, with others, and without a reset.

    In evaluation mode, nothing should differ. What differs with other random numbers alone is noise that is left on:
    dropout called as a function, attention weights that are dropped, noise layers. What differs although the random
    numbers are the same is a state that the model carries from call to call.

    Args:
        calls: Calls the model.
        fields: The rows.

    Returns:
        ``evaluation_noise`` with ``noise_source`` and ``stable_outputs``; ``evaluation_state``: see `FACTS`.
    """
    first = calls.all(fields)
    added = calls.model.added_losses
    kept = calls.all(fields, keep_state=True)
    again = calls.all(fields)
    other = calls.all(fields, seed=1)
    if not np.isfinite(first[0]).all():
        raise NotComparableError
    scale, rounding = _spread(first[0]), calls.rounding(first[0])
    facts: dict[str, float] = {}
    carried = max(largest_change(first[0], kept[0]), largest_change(first[0], again[0]))
    facts["evaluation_state"] = carried / scale if carried > rounding else 0.0
    noise = largest_change(first[0], other[0])
    if carried > rounding or noise <= rounding:
        return {**facts, "evaluation_noise": 0.0}
    stable = [
        a.shape == b.shape and largest_change(a, b) <= calls.rounding(a) for a, b in zip(first, other, strict=True)
    ]
    return {
        **facts,
        "evaluation_noise": float(np.sqrt(np.mean((first[0] - other[0]) ** 2))) / scale,
        "noise_source": float(NOISE_SOURCES.index(calls.model.noise)),
        "stable_outputs": float(sum(stable) + _stable_losses(added, calls.model.added_losses)),
    }


def _stable_losses(first: Sequence[float], other: Sequence[float]) -> int:
    """Return how many losses that the model adds do not change: of what it draws from (a KL divergence), not draws."""
    if len(first) != len(other):
        return 0
    return sum(a != 0 and abs(a - b) <= _ROUNDING * abs(a) for a, b in zip(first, other, strict=True))


def _spread(output: Floats) -> float:
    """Return the root of the mean variance over rows; if all rows are the same, the size of the output; never 0."""
    spread = float(np.sqrt(output.var(axis=0).mean())) if len(output) > 1 else 0.0
    return spread or float(np.abs(output).mean()) or 1.0
