"""Probing a model before training: forward passes on a few batches that change nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from autotrainer.adapter.probed_model import PROBE_ROWS
from autotrainer.backends.keras3.data.batches import read_batches
from autotrainer.backends.keras3.engines.patching import patched
from autotrainer.backends.keras3.engines.step_recorder import StepRecorder, paired
from autotrainer.backends.keras3.model.losses import check_loss, in_output_order
from autotrainer.backends.keras3.model.masks import mask_of
from autotrainer.backends.keras3.model.model_calls import error_reason
from autotrainer.backends.keras3.model.optimizers import as_optimizer
from autotrainer.backends.keras3.probing.probed_model import KerasProbedModel, probed_inputs
from autotrainer.backends.keras3.runtime.random_state import preserve_random_state
from autotrainer.backends.keras3.runtime.tensors import input_rows, row_count, rows_of
from autotrainer.backends.keras3.watching.loss_tracker import LossTracker
from autotrainer.backends.keras3.watching.step_counter import StepCounts
from autotrainer.backends.keras3.watching.step_measurement import StepMeasurement
from autotrainer.errors import DataError
from autotrainer.monitoring.guard import StatisticGuard, leave_out
from autotrainer.records.data import ArrayData, Data, StreamData, normalize
from autotrainer.records.signals import LAYER_COLUMNS, Observation
from autotrainer.records.task import TaskContext

__all__ = ["probe", "probed_data"]

_BATCH = 256
"""Rows of a batch of array data."""


def probe(model: Any, data: Any, loss: Any, optimizer: Any, batches: int) -> tuple[TaskContext, list[Observation]]:
    """Run forward passes on a few batches before training.

    Dropout is off; batch normalization uses the statistics of the batch, as in training. Model and random states are
    restored afterwards. A model without weights is probed through a copy; if it can't be copied, only the data are
    observed.

    Args:
        model: The model, built and compiled or not.
        data: ``(x, y)`` arrays or tensors, `tf.data.Dataset`, `keras.utils.PyDataset`, `DataLoader`, or anything
            that can be iterated more than once and yields ``(x, y)``.
        loss: Loss, or None for that of a compiled model. Its value is unknown if it can't be called.
        optimizer: Optimizer, or None for that of a compiled model.
        batches: Batches to read at most.

    Returns:
        The context and one observation per batch, without gradients.

    Raises:
        InputError: If Keras does not know the loss or optimizer.
        DataError: If the data are empty or not (x, y), or the model can't take them.
    """
    loss = getattr(model, "loss", None) if loss is None else loss
    optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
    check_loss(loss)
    loss_function = None if _is_nested(loss) else keras.losses.get(loss)
    optimizer_object = None if optimizer is None else as_optimizer(optimizer)
    if isinstance(data, list) and data and all(isinstance(item, tuple) for item in data):
        data = StreamData(data, "train_data")
    normalized = normalize(data, "train_data")
    with preserve_random_state():
        probed = model if model.built else _copy_of_unbuilt(model)
        pairs = list(read_batches(normalized, batches, _BATCH))
        if not pairs:
            raise DataError("train_data holds no batch")
        return _Probe(model, probed, loss_function, loss, optimizer_object).run(pairs, normalized)


def probed_data(model: Any, data: Any) -> KerasProbedModel | None:
    """Return a copy of a model with the first rows of data in a form that `probe` takes; None if there are none.

    Raises:
        NotProbedError: If the model can't be copied.
    """
    if isinstance(data, list) and data and all(isinstance(item, tuple) for item in data):
        data = StreamData(data, "train_data")
    with preserve_random_state():
        batch = next(iter(read_batches(normalize(data, "train_data"), 1, PROBE_ROWS)), None)
    return None if batch is None else probed_inputs(model, *batch[:2])


def _is_nested(loss: Any) -> bool:
    return isinstance(loss, list | tuple | dict) and not (isinstance(loss, dict) and "class_name" in loss)


def _copy_of_unbuilt(model: Any) -> Any:
    """Return a copy of a model without weights; None if it can't be copied."""
    try:
        return keras.models.clone_model(model)
    except Exception:  # noqa: BLE001 - a custom model may raise anything here
        return None


class _Probe:
    """The probe of one model: ``probed`` is the model or a copy of it, None if only the data can be observed."""

    def __init__(self, model: Any, probed: Any, loss: Any, loss_argument: Any, optimizer: Any) -> None:
        self._model = model
        self._probed = probed
        self._loss = loss
        self._loss_argument = loss_argument
        compiled_loss = loss_argument if loss_argument is not None else getattr(model, "loss", None)
        module = getattr(compiled_loss, "__module__", type(compiled_loss).__module__) or ""
        self._keras_aligns_shapes = isinstance(compiled_loss, str) or module.startswith(
            "keras."
        )  # a custom loss may reshape
        self._optimizer = optimizer
        self._guard = StatisticGuard(leave_out)
        self._refusal = ""
        self._output_rank: int | None = None
        self._measurement: StepMeasurement | None = None
        self._recorder: StepRecorder | None = None

    def run(self, pairs: list[tuple[Any, Any, Any]], data: Data) -> tuple[TaskContext, list[Observation]]:
        """Observe each batch."""
        if self._probed is not None and not self._probed.built:
            self._forward(0, *pairs[0][:2])  # creates the weights of the copy
        observations = [self._observe(step, *batch) for step, batch in enumerate(pairs)]
        measurement = self._measurement or StepMeasurement(
            self._model, LossTracker(), self._guard, self._loss_argument, self._optimizer
        )
        context = replace(measurement.context(), output_rank=self._output_rank, loss_refusal=self._refusal)
        if isinstance(data, ArrayData):
            context = replace(context, train_rows=data.rows, arrays=True)
        return context, observations

    def _observe(self, step: int, x: Any, y: Any, weights: Any) -> Observation:
        targets = _first(in_output_order(y, self._model))
        if self._probed is None:
            rows = row_count(targets)
            return Observation(
                step=step,
                layers=np.full(
                    (len(StepMeasurement(self._model, LossTracker(), self._guard).layers), len(LAYER_COLUMNS)), np.nan
                ),
                batch_size=float(len(targets)) if targets is not None else math.nan,
                inputs=input_rows(_first(x)),
                targets=rows_of(targets, rows),
            )
        if self._measurement is None:
            self._measurement = StepMeasurement(
                self._probed, LossTracker(), self._guard, self._loss_argument, self._optimizer
            )
            self._recorder = StepRecorder(self._probed, self._measurement.layers, self._guard)
        assert self._recorder is not None
        result: list[Any] = []
        recorded = self._recorder.record(lambda: result.append(self._forward(step, x, y)))
        recorded |= {"inputs": _first(x), "targets": targets, **paired(y, result[0], model=self._model)}
        if not keras.tree.is_nested(result[0]) and self._keras_aligns_shapes:
            self._output_rank = len(result[0].shape)
        mask, weights = mask_of(recorded.get("outputs")), _first(weights)
        recorded |= {name: value for name, value in (("mask", mask), ("weights", weights)) if value is not None}
        loss = self._loss_of(y, result[0])
        if loss is not None:
            recorded["loss"] = loss
        if not self._measurement.begun:
            self._measurement.begin(self._recorder, recorded)
        rate = self._measurement.context().optimizer.learning_rate
        observation = self._measurement.observation(None, recorded, StepCounts(step + 1, step + 1, 1))
        observation.learning_rate = rate
        return observation

    def _forward(self, step: int, x: Any, y: Any) -> Any:
        try:
            with _batch_statistics(self._probed):
                return self._probed(keras.tree.map_structure(keras.ops.convert_to_tensor, x), training=False)
        except Exception as error:
            shapes = ", ".join(map(_shape_and_type, _arrays(x)))
            raise DataError(
                f"the model can't take batch {step} of train_data with inputs of shape {shapes}: {error_reason(error)}"
            ) from error

    def _loss_of(self, y: Any, outputs: Any) -> Any:
        """Return the loss, or None if it can't be computed, which the rules explain.

        As in training, targets get the rank of the outputs by adding or removing a last axis of size 1.
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
                self._refusal = (
                    f"outputs {_shape_and_type(outputs)} and targets {_shape_and_type(_first(y))} ({first[:200]})"
                )
            return None


@contextmanager
def _batch_statistics(model: Any) -> Iterator[None]:
    """Let batch normalization use the statistics of the batch, and restore its moving statistics."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    statistics = [
        (v, np.array(keras.ops.convert_to_numpy(v))) for layer in layers for v in layer.non_trainable_variables
    ]
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(patched(layer, "call", _in_training(layer.call)))
        try:
            yield
        finally:
            for variable, value in statistics:
                variable.assign(value)


def _in_training(call: Any) -> Any:
    def training_call(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return call(inputs, training=True, mask=mask)

    return training_call


def _shape_and_type(array: Any) -> str:
    return f"{tuple(array.shape)} ({keras.backend.standardize_dtype(array.dtype)})"


def _arrays(values: Any) -> list[Any]:
    return [a for a in keras.tree.flatten(values) if hasattr(a, "shape") and hasattr(a, "dtype")]


def _first(values: Any) -> Any:
    arrays = _arrays(values)
    return arrays[0] if arrays else None
