"""Looks at a model before training: forward passes on a few batches that leave no trace."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.data.feeding import batches as read_batches
from autotrainer.backends.keras3.data.feeding import reason_of
from autotrainer.backends.keras3.engines.patching import patched
from autotrainer.backends.keras3.engines.recording import StepRecorder, paired
from autotrainer.backends.keras3.runtime.random_state import preserve_random_state
from autotrainer.backends.keras3.runtime.tensors import input_rows, row_count, rows_of
from autotrainer.backends.keras3.watching.loss_tracker import LossTracker
from autotrainer.backends.keras3.watching.step_measurement import Position, StepMeasurement
from autotrainer.errors import DataError, InputError
from autotrainer.records.data import ArrayData, Data, StreamData, normalize
from autotrainer.records.signals import LAYER_COLUMNS, Observation
from autotrainer.records.task import TaskContext

__all__ = ["probe"]

_BATCH = 256
"""Rows of a batch of array data."""


def probe(model: Any, data: Any, loss: Any, optimizer: Any, batches: int) -> tuple[TaskContext, list[Observation]]:
    """Look at a model before training.

    Dropout is off and no random number is drawn for good; batch normalization goes by the statistics of the batch, as
    it does in training. Model and random states are as before afterwards. A model that has no weights yet is looked at
    through a copy, and where it can't be copied only the data are.

    Args:
        model: The model, built and compiled or not.
        data: ``(x, y)`` arrays or tensors, `tf.data.Dataset`, `keras.utils.PyDataset`, `DataLoader`, or anything
            that can be iterated again and again and yields ``(x, y)``.
        loss: Loss, or None for that of a compiled model. Its value is unknown where it can't be called.
        optimizer: Optimizer, or None for that of a compiled model.
        batches: How many batches to read at most.

    Returns:
        The context and one observation a batch, without gradients.

    Raises:
        InputError: If loss or optimizer are none that Keras knows.
        DataError: If the data are no (x, y), there are none, or the model can't take them.
    """
    loss = getattr(model, "loss", None) if loss is None else loss
    optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
    try:
        known_loss, known_optimizer = keras.losses.get(loss) if not _nested(loss) else None, optimizer
        if isinstance(optimizer, str):
            known_optimizer = keras.optimizers.get(optimizer)
    except ValueError as error:
        raise InputError(f"loss or optimizer unknown to Keras: {error}") from error
    if known_optimizer is not None and not isinstance(known_optimizer, keras.optimizers.Optimizer):
        raise InputError(f"optimizer must be a Keras optimizer or its name, not {type(optimizer).__name__}")
    if isinstance(data, list) and data and all(isinstance(item, tuple) for item in data):
        data = StreamData(data)
    known = normalize(data, "train_data")
    with preserve_random_state():
        subject = model if model.built else _copy_of_unbuilt(model)
        pairs = [(x, y) for x, y, _ in read_batches(known, batches, _BATCH)]
        if not pairs:
            raise DataError("train_data holds no batch")
        return _Probe(model, subject, known_loss, loss, known_optimizer).run(pairs, known)


def _nested(loss: Any) -> bool:
    return isinstance(loss, list | tuple | dict) and not (isinstance(loss, dict) and "class_name" in loss)


def _copy_of_unbuilt(model: Any) -> Any:
    """Return a copy of a model without weights, which may draw some; None if it can't be copied."""
    try:
        return keras.models.clone_model(model)
    except Exception:  # noqa: BLE001 - a model of the user's own class may raise anything here
        return None


class _Probe:
    """One look at a model."""

    def __init__(self, model: Any, subject: Any, loss: Any, given_loss: Any, optimizer: Any) -> None:
        self._model = model
        self._subject = subject
        self._loss = loss
        self._given_loss = given_loss
        own = given_loss if given_loss is not None else getattr(model, "loss", None)
        module = getattr(own, "__module__", type(own).__module__) or ""
        self._takes_as_given = isinstance(own, str) or module.startswith("keras.")  # one's own may reshape
        self._optimizer = optimizer
        self._errors: list[Exception] = []
        self._refusal = ""
        self._output_rank: int | None = None
        self._measure: StepMeasurement | None = None
        self._recorder: StepRecorder | None = None

    def run(self, pairs: list[tuple[Any, Any]], data: Data) -> tuple[TaskContext, list[Observation]]:
        """Look at each batch."""
        if self._subject is not None and not self._subject.built:
            self._forward(0, *pairs[0])  # makes the weights of the copy
        observations = [self._look(step, x, y) for step, (x, y) in enumerate(pairs)]
        if self._errors:
            raise self._errors[0]
        measure = self._measure or StepMeasurement(self._model, LossTracker(), self._given_loss, self._optimizer)
        context = replace(measure.context(), output_rank=self._output_rank, loss_refusal=self._refusal)
        if isinstance(data, ArrayData):
            context = replace(context, train_rows=data.rows, arrays=True)
        return context, observations

    def _look(self, step: int, x: Any, y: Any) -> Observation:
        targets = _first(y)
        if self._subject is None:
            rows = row_count(targets)
            return Observation(
                step=step,
                layers=np.full((len(StepMeasurement(self._model, LossTracker()).parts), len(LAYER_COLUMNS)), np.nan),
                batch_size=float(len(targets)) if targets is not None else math.nan,
                inputs=input_rows(_first(x)),
                targets=rows_of(targets, rows),
            )
        if self._measure is None:
            self._measure = StepMeasurement(self._subject, LossTracker(), self._given_loss, self._optimizer)
            self._recorder = StepRecorder(self._subject, self._measure.parts, self._errors.append)
        assert self._recorder is not None
        result: list[Any] = []
        seen = self._recorder.record(lambda: result.append(self._forward(step, x, y)))
        seen |= {"inputs": _first(x), "targets": targets, **paired(y, result[0])}
        if not keras.tree.is_nested(result[0]) and self._takes_as_given:
            self._output_rank = len(result[0].shape)
        loss = self._loss_of(y, result[0])
        if loss is not None:
            seen["loss"] = loss
        if not self._measure.begun:
            self._measure.begin(self._recorder, seen)
        rate = self._measure.context().optimizer.learning_rate
        return replace_rate(self._measure.observation(None, seen, Position(step + 1, step + 1, 1)), rate)

    def _forward(self, step: int, x: Any, y: Any) -> Any:
        try:
            with _like_training(self._subject):
                return self._subject(keras.tree.map_structure(keras.ops.convert_to_tensor, x), training=False)
        except Exception as error:
            shapes = ", ".join(map(_described, _arrays(x)))
            raise DataError(
                f"the model can't take batch {step} of train_data with inputs of shape {shapes}: {reason_of(error)}"
            ) from error

    def _loss_of(self, y: Any, outputs: Any) -> Any:
        """Return the loss, or None where it can't be called like this: that is for the rules to explain.

        Targets get the rank of the outputs where Keras does so in training: a last axis of size 1 comes or goes.
        """
        if self._loss is None or keras.tree.is_nested(outputs):
            return None
        try:
            targets = keras.ops.convert_to_tensor(_first(y))
            axes = abs(len(targets.shape) - len(outputs.shape))
            if axes == 1 and math.prod(targets.shape) == math.prod(outputs.shape):
                targets = keras.ops.reshape(targets, outputs.shape)
            return keras.ops.mean(self._loss(targets, outputs))
        except Exception as error:  # noqa: BLE001 - whatever the user's loss raises
            if not keras.tree.is_nested(y) and not self._refusal:
                first = (str(error).splitlines() or [""])[0].rpartition("}} ")[2].split(" [Op:")[0]
                self._refusal = f"outputs {_described(outputs)} and targets {_described(_first(y))} ({first[:200]})"
            return None


def replace_rate(observation: Observation, rate: float) -> Observation:
    """Return an observation with a learning rate."""
    observation.learning_rate = rate
    return observation


@contextmanager
def _like_training(model: Any) -> Iterator[None]:
    """Let batch normalization go by the statistics of the batch, and put its moving statistics back."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    kept = [(v, np.array(keras.ops.convert_to_numpy(v))) for layer in layers for v in layer.non_trainable_variables]
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(patched(layer, "call", _in_training(layer.call)))
        try:
            yield
        finally:
            for variable, value in kept:
                variable.assign(value)


def _in_training(call: Any) -> Any:
    def training_call(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return call(inputs, training=True, mask=mask)

    return training_call


def _described(array: Any) -> str:
    """Say shape and type of an array."""
    return f"{tuple(array.shape)} ({keras.backend.standardize_dtype(array.dtype)})"


def _arrays(values: Any) -> list[Any]:
    return [a for a in keras.tree.flatten(values) if hasattr(a, "shape") and hasattr(a, "dtype")]


def _first(values: Any) -> Any:
    found = _arrays(values)
    return found[0] if found else None
