"""Time steps that a model masks (as `Embedding` does with ``mask_zero``): they do not count in losses and metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.runtime.keras_internals import get_mask, set_mask
from autotrainer.backends.keras3.runtime.tensors import rows_of
from autotrainer.records.signals import MAX_VALUES
from autotrainer.records.task import MASKED

__all__ = ["mask_of", "masked_like", "sequences", "unmasked", "with_mask"]

_MOST_CLASSES = 1024
"""Classes of one-hot targets that are read."""


def mask_of(output: Any) -> Any:
    """Return the Keras mask of a tensor of outputs: true where a time step counts; None if there is none."""
    return get_mask(output)


def masked_like(new: Any, old: Any) -> Any:
    """Return the new tensor with the mask of the old one."""
    mask = mask_of(old)
    return new if mask is None else with_mask(new, mask)


def with_mask(output: Any, mask: Any) -> Any:
    """Return a tensor of outputs after putting a mask on it."""
    set_mask(output, mask)
    return output


def unmasked(
    targets: NDArray[Any], outputs: NDArray[Any], mask: NDArray[Any] | None, ignored: Any = None
) -> NDArray[Any]:
    """Return targets with -100 as the class index of masked time steps, and of those that the loss ignores.

    Other targets than class indices (numbers, one-hot rows, one unit per time step) are returned unchanged.

    Args:
        targets: Shape (rows, time...), or with a last axis of 1.
        outputs: Shape (rows, time..., classes).
        mask: Shape (rows, time...), or None.
        ignored: The class that the loss ignores, or None.
    """
    steps = outputs.shape[:-1]
    if isinstance(ignored, int) and outputs.shape[-1:] > (1,) and targets.shape in (steps, (*steps, 1)):
        found = targets == ignored
        targets = np.where(found, MASKED, targets.astype(np.int64)) if found.any() and _integral(targets) else targets
    if mask is None or mask.ndim < 2 or outputs.shape[:-1] != mask.shape or outputs.shape[-1] < 2 or mask.all():
        return targets
    if targets.shape not in (mask.shape, (*mask.shape, 1)) or not _integral(targets):
        return targets
    return np.where(mask.reshape(targets.shape), targets.astype(np.int64), MASKED)


def sequences(recorded: Mapping[str, Any], ignored: Any = None) -> NDArray[Any] | None:
    """Return the class indices of a batch of sequences, -100 where they do not count in the loss.

    Args:
        recorded: The recorded tensors of a step, as `StepRecorder.train_step` returns them.
        ignored: The class that the loss ignores, or None.

    Returns:
        Shape (sequences, steps), of at most `MAX_VALUES` targets; None if the targets are none.
    """
    targets, outputs = recorded.get("targets"), recorded.get("outputs")
    shape, rank = tuple(getattr(targets, "shape", ())), len(getattr(outputs, "shape", ()))
    if outputs is None or len(shape) not in (2, 3) or rank != 3 or tuple(outputs.shape[:2]) != shape[:2]:
        return None
    if len(shape) == 3 and shape[2] > _MOST_CLASSES:
        return None
    labels = rows_of(targets, MAX_VALUES // max(1, math.prod(shape[1:])))
    if labels is None or not labels.size or not _integral(labels):
        return None
    if labels.ndim == 3 and labels.shape[2] > 1:
        if not ((labels.sum(axis=2) == 1) & (labels.max(axis=2) == 1)).all():
            return None
        labels = labels.argmax(axis=2)
    labels = labels.reshape(labels.shape[:2]).astype(np.int64)
    labels = np.where(labels == ignored, MASKED, labels) if isinstance(ignored, int) else labels
    for name in ("mask", "row_mask", "weights"):
        counts = rows_of(recorded[name], len(labels)) if name in recorded else None
        if counts is not None and counts.ndim <= 3:
            counts = counts.reshape(counts.shape[:2]) if counts.size == math.prod(counts.shape[:2]) else counts
            if counts.shape == labels.shape or counts.shape in ((len(labels),), (len(labels), 1)):
                labels = np.where(np.reshape(counts, (len(labels), -1)) != 0, labels, MASKED)
    return labels


def _integral(values: NDArray[Any]) -> bool:
    if values.dtype.kind == "f":
        return bool((np.isfinite(values) & (values == np.round(values))).all())
    return values.dtype.kind in "iu"
