"""Recurrent layers that keep their state from batch to batch, in a ``fit`` that shuffles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from autotrainer.backends.keras3.runtime.tensorflow_functions import shuffles

__all__ = ["carries_state_of_shuffled_rows"]

_BATCH_SIZE = 32
"""Batch size of ``fit`` by default."""


def carries_state_of_shuffled_rows(model: Any, arguments: Mapping[str, Any]) -> bool:
    """Return whether a batch begins with a state that other, randomly chosen rows have left.

    Args:
        model: The model.
        arguments: The arguments of ``fit`` by name; arrays and indexed batches are shuffled unless they say otherwise.
    """
    if not any(isinstance(layer, keras.layers.RNN) and layer.stateful for layer in model._flatten_layers()):
        return False
    data = arguments.get("x")
    if isinstance(data, keras.utils.PyDataset):
        return bool(arguments.get("shuffle", True)) and (data.num_batches or 0) > 1
    if hasattr(data, "element_spec"):
        return shuffles(data)
    arrays = [array for array in keras.tree.flatten(data) if getattr(array, "shape", ())]
    if not arrays or not bool(arguments.get("shuffle", True)):
        return False
    return bool(arrays[0].shape[0] > (arguments.get("batch_size") or _BATCH_SIZE))
