"""The variables of a training, made before its first step."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import keras

from autotrainer.backends.keras3.data.batches import ArrayBatches
from autotrainer.backends.keras3.model.copying import has_graph
from autotrainer.backends.keras3.runtime.random_state import preserve_random_state

__all__ = ["make_variables"]

_OF_A_STEP = ("train_step", "compute_loss", "compute_metrics")


def make_variables(model: Any, batches: ArrayBatches) -> None:
    """Make the variables of optimizer and metrics on TensorFlow, as Keras does before `fit` on its other engines.

    TensorFlow would trace the first step twice: once while they are made, and once more for all further steps.

    Args:
        model: The compiled model. One with a step of its own makes its variables itself.
        batches: The training data.
    """
    if keras.backend.backend() != "tensorflow" or model.run_eagerly or not has_graph(model):
        return
    if any(getattr(type(model), name) is not getattr(keras.Model, name) for name in _OF_A_STEP):
        return
    with suppress(Exception), preserve_random_state():  # `fit` reports errors of loss and metrics
        model._symbolic_build(data_batch=batches.first())
