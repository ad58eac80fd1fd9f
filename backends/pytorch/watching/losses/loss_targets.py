"""The targets of one call of the loss: how it weights them, and those of sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.pytorch.statistics.stats import to_host
from autotrainer.backends.pytorch.watching.losses.loss_call import LossCall
from autotrainer.records.task import MASKED

__all__ = ["row_weights", "sequences"]


def sequences(call: LossCall | None, count: int | None) -> NDArray[Any] | None:
    """Return the class indices of a batch of sequences, `MASKED` where they have no weight.

    Args:
        call: The call, copied.
        count: Number of sequences; None if unknown.

    Returns:
        Shape (sequences, steps); None if there are none.
    """
    if call is None or call.labels is None:
        return None
    steps, rest = divmod(call.entries, count) if count else (0, 1)
    flat = call.labels.ndim != 2
    if flat and (rest or steps < 2):  # one target for each row: not worth a copy to the host
        return None
    labels = to_host(call.labels)
    assert labels is not None
    if call.weights is not None and call.weights.ndim == 1:
        labels = np.where(np.isin(labels, np.flatnonzero(_on_host(call) == 0)), MASKED, labels)
    return labels[: len(labels) // steps * steps].reshape(-1, steps) if flat else labels


def row_weights(call: LossCall | None, targets: NDArray[Any] | None) -> NDArray[Any] | None:
    """Return the weights of the copied targets of a call by their classes; None if there are none.

    Args:
        call: The call, copied.
        targets: Class indices, probabilities of classes, or labels in columns.

    Returns:
        Shape (rows,) or that of the targets.
    """
    if call is None or call.weights is None or targets is None or not targets.size:
        return None
    weights = _on_host(call)
    if weights.ndim == 2:
        fits = len(weights) == 1 or targets.shape[1:] == weights.shape[:1]
        return np.where(targets == 1, weights[:, 1], weights[:, 0]) if fits else None
    if targets.dtype.kind == "f" and targets.shape[1:] == weights.shape:
        targets = targets.argmax(axis=1)
    classes = np.clip(np.nan_to_num(targets), 0, len(weights) - 1).astype(np.int64)
    by_class: NDArray[Any] = np.where(targets == MASKED, 0.0, weights[classes])
    return by_class


def _on_host(call: LossCall) -> NDArray[Any]:
    weights = to_host(call.weights)
    assert weights is not None
    return weights
