"""The timed training in Keras, plain or with one setting of `benchmarks.overhead.settings`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

import autotrainer
from benchmarks.overhead.models import keras_model
from benchmarks.overhead.settings import CONTROL, WATCH, Attached, Block, offline_run, options_of

__all__ = ["KerasTraining"]

_EPOCHS = 10**4
"""Planned epochs: many, since most steps of a training are far from its end."""


class KerasTraining:
    """One model, trained on one batch repeatedly: a block is an epoch of as many batches as steps.

    Each epoch is a separate call of ``fit`` that continues a long training and stops after one epoch.

    Args:
        model: A name that `keras_model` accepts.
        x: Inputs of the batch.
        y: Classes of the batch.
        setting: The setting that `attach` applies.
        folder: Where the setting may write.
    """

    def __init__(self, model: str, x: NDArray[Any], y: NDArray[Any], setting: str, folder: Path) -> None:
        keras.utils.set_random_seed(0)
        network = keras_model(model)
        if setting == "norm_loop":
            network = NormModel(network.inputs, network.outputs)
        network.compile(
            optimizer=keras.optimizers.Adam(1e-4), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        self.network, self._x, self._y = network, x, y
        self._setting, self._folder = setting, folder
        self._attached = Attached()
        self._clock, self._epoch = StepClock(), 0
        self.parameters = sum(int(np.prod(w.shape)) * 4 for w in network.trainable_weights)

    def attach(self) -> None:
        """Apply the setting to the training."""
        if self._setting in WATCH:
            monitor = autotrainer.watch(self.network, **options_of(self._setting, self._folder))
            self._attached = Attached(close=monitor.close)
        elif self._setting not in (CONTROL, "norm_loop"):
            self._attached = _ALTERNATIVES[self._setting](self._folder)

    def block(self, steps: int) -> Block:
        """Train that many steps."""
        clock, around = self._clock, self._attached.around or contextlib.nullcontext
        clock.seconds.clear()
        with around():
            # An epoch of as many batches as steps: what `fit` does between epochs is not part of a step's cost.
            self.network.fit(
                np.tile(self._x, (steps, *[1] * (self._x.ndim - 1))),
                np.tile(self._y, steps),
                batch_size=len(self._y),
                shuffle=False,
                verbose=0,
                epochs=_EPOCHS,
                initial_epoch=self._epoch,
                callbacks=[*self._attached.callbacks, clock.callback(), StopAtEnd()],
            )
        self._epoch += 1
        return list(clock.seconds), time.process_time() - clock.processor

    def close(self) -> None:
        """Remove the setting."""
        if self._attached.close is not None:
            self._attached.close()


class StopAtEnd(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Ends ``fit`` after one epoch."""

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Stop the training."""
        self.model.stop_training = True


class StepClock:
    """Records the time from the end of one batch to the end of the next, so that all callbacks count."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.processor = 0.0  # process time at the end of the first batch

    def callback(self) -> Any:
        """Return a Keras callback that writes to this clock."""
        seconds, last = self.seconds, [0.0]

        def end(batch: int, logs: object = None) -> None:
            now = time.perf_counter()
            if batch:
                seconds.append(now - last[0])
            else:
                self.processor = time.process_time()
            last[0] = now

        return keras.callbacks.LambdaCallback(on_train_batch_end=end)


class NormModel(keras.Model):  # type: ignore[misc]  # Keras has no types
    """A model whose training step also reports the norm of its gradients, as a user would write it."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Take one step; return the metrics and ``grad_norm``."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return {"loss": loss, "grad_norm": tf.linalg.global_norm(gradients)}


def _check_numerics(folder: Path) -> Attached:
    @contextlib.contextmanager
    def around() -> Iterator[None]:
        tf.debugging.enable_check_numerics()  # affects only functions traced meanwhile, so only this model
        try:
            yield
        finally:
            tf.debugging.disable_check_numerics()

    return Attached(around=around)


def _terminate_on_nan(folder: Path) -> Attached:
    return Attached(callbacks=(keras.callbacks.TerminateOnNaN(),))


def _wandb(folder: Path) -> Attached:
    run = offline_run(folder)
    logger = import_module("wandb.integration.keras").WandbMetricsLogger(log_freq="batch")
    return Attached(callbacks=(logger,), close=run.finish)


_ALTERNATIVES: Mapping[str, Callable[[Path], Attached]] = {
    "check_numerics": _check_numerics,
    "terminate_on_nan": _terminate_on_nan,
    "wandb": _wandb,
}
