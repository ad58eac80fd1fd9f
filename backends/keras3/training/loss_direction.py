"""Whether a custom loss draws outputs towards binary targets, or away from them, as that of a distance."""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.runtime.random_state import preserve_random_state

__all__ = ["is_of_distance"]


def is_of_distance(loss: Any) -> bool:
    """Return whether a custom loss is lower where outputs are low for targets of 1 and high for those of 0.

    Args:
        loss: Keras loss object or function; False for what can't be called with outputs and targets of shape (8, 1).
    """
    targets = np.tile(np.array([[0.0], [1.0]], np.float32), (4, 1))
    near, far = ((0.1 + 0.8 * values).astype(np.float32) for values in (targets, 1 - targets))
    try:
        if isinstance(loss, keras.losses.Loss):
            loss = copy.deepcopy(loss)  # it may count its calls
        with preserve_random_state():
            least, most = (float(np.mean(keras.ops.convert_to_numpy(loss(targets, each)))) for each in (far, near))
    except Exception:  # noqa: BLE001 - it takes other shapes, or more arguments
        return False
    return least < most
