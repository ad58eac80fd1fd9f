"""What a process tells the others of a sampled step: a row of `RANK_COLUMNS`."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.pytorch.ranks.local_step import LocalStep
from autotrainer.monitoring.ranks.comparison import RANK_COLUMNS
from autotrainer.records.signals import LAYER_COLUMNS, Floats

__all__ = ["rank_row"]

_ACTIVATION = LAYER_COLUMNS.index("activation_mean_abs")


def rank_row(
    measured: LocalStep, weights: Floats, gradients: Floats, position: float, first_lost: int | None
) -> Floats:
    """Return the row.

    Args:
        measured: The measurements of this process.
        weights: Norms of its weights, by row of the layer table.
        gradients: Norms of its gradients.
        position: Collective operations since the first sampled step.
        first_lost: First step with a loss that is not finite, counted from the first sampled one; None without any.

    Returns:
        Shape (`RANK_COLUMNS`,).
    """
    observation = measured.observation
    inputs = observation.inputs
    inputs = None if inputs is None or not np.issubdtype(inputs.dtype, np.floating) else inputs.astype(np.float64)
    row = {
        "present": 1.0,
        "position": position,
        "loss": observation.loss,
        "grad_norm": _total(gradients),
        "weight_norm": _total(weights),
        "nonfinite_loss": 0.0 if first_lost is None else max(1.0, 1.0 + first_lost),
        "nonfinite_inputs": float(inputs is not None and not np.isfinite(inputs).all()),
        "nonfinite_outputs": float(np.isinf(measured.activations[:, _ACTIVATION]).any()),
        "input_scale": math.nan if inputs is None or not inputs.size else float(np.sqrt(np.square(inputs).mean())),
        "batch": _checksum(observation.inputs, observation.targets),
    }
    return np.array([row[name] for name in RANK_COLUMNS])


def _total(norms: Floats) -> float:
    return float(np.sqrt(np.nansum(norms**2))) if not np.isnan(norms).all() else math.nan


def _checksum(*arrays: NDArray[Any] | None) -> float:
    """Return a number that is equal where arrays are; NaN without any."""
    present = [np.ascontiguousarray(array) for array in arrays if array is not None and array.size]
    if not present:
        return math.nan
    checksum = 0
    for array in present:
        checksum = zlib.crc32(array.tobytes(), checksum)
    return float(checksum)
