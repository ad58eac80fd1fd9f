"""Keras."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from typing import Any

import keras
from numpy.typing import NDArray

from autotrainer.integrations.keras import AutoTrainer
from benchmarks.overhead.keras3 import NormModel
from benchmarks.overhead.library_fits import STEPS, Gate
from benchmarks.overhead.models import keras_model

__all__ = ["build"]


def build(model: str, x: NDArray[Any], y: NDArray[Any], setting: str, folder: Path, gate: Gate) -> Any:
    """Return the network and its ``fit``."""

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            gate.pass_through()
            if gate.stopped:
                self.model.stop_training = True

    keras.utils.set_random_seed(0)
    network = keras_model(model)
    if setting == "keras_norm_loop":
        network = NormModel(network.inputs, network.outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=keras.optimizers.Adam(1e-4), loss=loss)
    callbacks = [*([AutoTrainer()] if setting == "keras_callback" else []), Clock()]
    batches = (batch for batch in repeat((x, y)))  # Keras takes generators, not all iterators
    return network, lambda: network.fit(batches, steps_per_epoch=STEPS, verbose=0, callbacks=callbacks)
