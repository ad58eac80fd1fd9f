"""Time steps that a model masks (as `Embedding` does with ``mask_zero``): they do not count in losses and metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.runtime.keras_internals import get_mask, set_mask
from autotrainer.records.task import MASKED

__all__ = ["mask_of", "masked_like", "unmasked", "with_mask"]


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


def unmasked(targets: NDArray[Any], outputs: NDArray[Any], mask: NDArray[Any] | None) -> NDArray[Any]:
    """Return targets with -100 as the class index of masked time steps.

    Other targets than class indices (numbers, one-hot rows, one unit per time step) are returned unchanged.

    Args:
        targets: Shape (rows, time...), or with a last axis of 1.
        outputs: Shape (rows, time..., classes).
        mask: Shape (rows, time...), or None.
    """
    if mask is None or mask.ndim < 2 or outputs.shape[:-1] != mask.shape or outputs.shape[-1] < 2 or mask.all():
        return targets
    if targets.shape not in (mask.shape, (*mask.shape, 1)) or not _integral(targets):
        return targets
    return np.where(mask.reshape(targets.shape), targets.astype(np.int64), MASKED)


def _integral(values: NDArray[Any]) -> bool:
    if values.dtype.kind == "f":
        return bool((np.isfinite(values) & (values == np.round(values))).all())
    return values.dtype.kind in "iu"
