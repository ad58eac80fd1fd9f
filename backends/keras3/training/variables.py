"""The variables of a training, made before its first step."""

from __future__ import annotations

from typing import Any

import keras

from autotrainer.backends.keras3.data.batches import ArrayBatches
from autotrainer.backends.keras3.model.copying import has_graph
from autotrainer.backends.keras3.runtime.random_state import preserve_random_state

__all__ = ["make_variables"]

_OF_A_STEP = ("train_step", "compute_loss", "compute_metrics")


def make_variables(model: Any, batches: ArrayBatches) -> bool:
    """Make the variables of optimizer and metrics on TensorFlow, as Keras does before `fit` on its other engines.

    TensorFlow would trace the first step twice: once while they are made, and once more for all further steps.

    Args:
        model: The compiled model. One with a step of its own makes its variables itself.
        batches: The training data.

    Returns:
        False if loss or metrics have raised, whose variables may then be half made: compile the model again, and let
        `fit` report the error.
    """
    if keras.backend.backend() != "tensorflow" or model.run_eagerly or not has_graph(model):
        return True
    if any(getattr(type(model), name) is not getattr(keras.Model, name) for name in _OF_A_STEP):
        return True
    try:
        with preserve_random_state():
            model._symbolic_build(data_batch=batches.first())
    except Exception:  # noqa: BLE001 - loss and metrics may raise anything, and raise it again in `fit`
        return False
    return True
