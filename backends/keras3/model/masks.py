"""Steps of sequences that a model masks (as `Embedding` does with ``mask_zero``): left out of what is judged."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras.src import backend
from numpy.typing import NDArray

from autotrainer.records.task import MASKED

__all__ = ["mask_of", "masked_like", "unmasked", "with_mask"]


def mask_of(output: Any) -> Any:
    """Return the mask that Keras has put on a tensor of outputs: true where a step counts; None if there is none."""
    if hasattr(backend, "get_keras_mask"):
        return backend.get_keras_mask(output)
    return getattr(output, "_keras_mask", None)  # Keras before 3.7


def masked_like(new: Any, old: Any) -> Any:
    """Return a tensor, with the mask of another one put on it."""
    mask = mask_of(old)
    return new if mask is None else with_mask(new, mask)


def with_mask(output: Any, mask: Any) -> Any:
    """Return a tensor of outputs, with a mask put on it."""
    if hasattr(backend, "set_keras_mask"):
        backend.set_keras_mask(output, mask)
    else:
        output._keras_mask = mask  # Keras before 3.7
    return output


def unmasked(targets: NDArray[Any], outputs: NDArray[Any], mask: NDArray[Any] | None) -> NDArray[Any]:
    """Return targets with -100 as the class index of the steps that are masked.

    Only class indices can say so; other targets (numbers, one-hot rows, one unit a step) come back as they are.

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
