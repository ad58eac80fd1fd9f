"""Describing a Keras training without running it: layers, optimizer, outputs, inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.model.layer_kinds import kind_of
from autotrainer.backends.keras3.model.loss_kinds import loss_info
from autotrainer.backends.keras3.model.losses import in_output_order
from autotrainer.backends.keras3.model.optimizers import inner_optimizer
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer, output_activation, watched_layers
from autotrainer.backends.keras3.runtime.tensors import read_variable, scalar
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import OptimizerInfo, TaskContext

__all__ = [
    "context_of",
    "dropout_rates",
    "layers",
    "learning_rate",
    "optimizer_info",
    "optimizer_steps",
    "penalized_weights",
    "scheduler_steps",
]


def layers(model: Any) -> tuple[LayerInfo, ...]:
    """Return the layers with weights and the activation layers of a model, in forward order as far as known."""
    return tuple(layer.info for layer in watched_layers(model))


def optimizer_info(optimizer: Any) -> OptimizerInfo:
    """Describe an optimizer: object, name, or None."""
    if optimizer is None:
        return OptimizerInfo()
    if isinstance(optimizer, str | Mapping):
        optimizer = keras.optimizers.get(optimizer)
    optimizer = inner_optimizer(optimizer)
    schedule = getattr(optimizer, "_learning_rate", None)
    scheduled = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule)
    return OptimizerInfo(
        name=type(optimizer).__name__.lower(),
        learning_rate=_target_rate(optimizer),
        momentum=_as_number(getattr(optimizer, "momentum", 0.0)),
        weight_decay=_as_number(getattr(optimizer, "weight_decay", 0.0)),
        scheduled=scheduled,
        schedule=type(schedule).__name__ if scheduled else "",
        schedule_length=_schedule_length(schedule),
        accumulation=int(getattr(optimizer, "gradient_accumulation_steps", None) or 1),
    )


def _schedule_length(schedule: Any) -> int | None:
    """Return the steps after which a schedule no longer changes the rate; None if unknown or unbounded."""
    schedules = keras.optimizers.schedules
    bounded = isinstance(schedule, schedules.CosineDecay | schedules.PolynomialDecay)
    if not bounded or getattr(schedule, "cycle", False):
        return None
    warm_up = schedule.warmup_steps if getattr(schedule, "warmup_target", None) is not None else 0
    return int(schedule.decay_steps) + int(warm_up)


def optimizer_steps(optimizer: Any) -> float:
    """Return the steps that an optimizer counts; NaN without one."""
    iterations = getattr(inner_optimizer(optimizer), "iterations", None)
    if iterations is None:
        return float("nan")
    # with accumulated gradients, it is computed from the steps and no variable
    return scalar(read_variable(iterations) if hasattr(iterations, "value") else iterations)


def scheduler_steps(optimizer: Any) -> float:
    """Return the steps that the learning-rate schedule of an optimizer counts; NaN if it has none."""
    optimizer = inner_optimizer(optimizer)
    scheduled = isinstance(getattr(optimizer, "_learning_rate", None), keras.optimizers.schedules.LearningRateSchedule)
    return scalar(read_variable(optimizer.iterations)) if scheduled else float("nan")


def _target_rate(optimizer: Any) -> float:
    """Return the initial learning rate; with a warm-up, the rate after it."""
    target = getattr(getattr(optimizer, "_learning_rate", None), "warmup_target", None)
    return learning_rate(optimizer) if target is None else float(target)


def learning_rate(optimizer: Any) -> float:
    """Return the current learning rate; NaN if the optimizer has none."""
    rate = getattr(inner_optimizer(optimizer), "learning_rate", None)
    if rate is None:
        return float("nan")
    return scalar(read_variable(rate) if isinstance(rate, keras.Variable) else rate)


def context_of(model: Any, watched: Sequence[WatchedLayer], loss: Any, optimizer: Any, output: int = 0) -> TaskContext:
    """Return the description of a training: layers, loss, optimizer, kind of input, and one of the outputs."""
    activation, _ = output_activation(model, output)
    return TaskContext(
        framework="keras3",
        engine=keras.backend.backend(),
        loss=loss_info(in_output_order(loss, model)),
        optimizer=optimizer_info(optimizer),
        layers=tuple(layer.info for layer in watched),
        output_activation=activation,
        output_units=_output_units(model, watched, output),
        input_kind=_input_kind(model, watched),
        dropout=max((rate for _, _, rate in dropout_rates(model)), default=0.0),
        penalized=next(penalized_weights(model), None) is not None,
    )


def dropout_rates(model: Any) -> Iterator[tuple[Any, str, float]]:
    """Yield the layers that drop values at random, the attribute that holds the rate, and the rate."""
    names = {"dropout": ("rate",), "recurrent": ("dropout", "recurrent_dropout")}
    for layer in model._flatten_layers() if isinstance(model, keras.layers.Layer) else ():
        for name in names.get(kind_of(layer), ()):
            yield layer, name, _as_number(getattr(layer, name, 0.0))


def penalized_weights(model: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the layers and those of their trainable weights whose penalties a model adds to the loss."""
    for layer in model._flatten_layers() if isinstance(model, keras.layers.Layer) else ():
        for weight in layer._trainable_variables:
            if layer.trainable and getattr(weight, "regularizer", None) is not None:
                yield layer, weight


def _input_kind(model: Any, watched: Sequence[WatchedLayer]) -> str:
    if watched and watched[0].info.kind == "embedding":
        return "index"
    layer = model
    while isinstance(layer, keras.Model):
        inner = [child for child in layer.layers if not isinstance(child, keras.layers.InputLayer)]
        if not inner:
            return "values"
        layer = inner[0]
    if type(layer) is keras.layers.Normalization and layer.built and not _is_adapted(layer):
        return "values"
    return "scaled" if kind_of(layer) == "norm" or isinstance(layer, keras.layers.Rescaling) else "values"


def _is_adapted(layer: Any) -> bool:
    """Return whether a normalization changes its inputs: without `adapt()`, it has mean 0 and variance 1."""
    mean, variance = (np.asarray(keras.ops.convert_to_numpy(v)) for v in (layer.mean, layer.variance))
    return bool((mean != 0).any() or (variance != 1).any())


def _as_number(value: Any) -> float:
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return 0.0


def _output_units(model: Any, watched: Sequence[WatchedLayer], output: int) -> int | None:
    try:
        outputs = keras.tree.flatten(model.outputs)
    except (AttributeError, ValueError):  # not built, or no graph
        outputs = []
    shape: tuple[int | None, ...] = outputs[output].shape if output < len(outputs) else ()
    if len(shape) > 1 and shape[-1] is not None:
        return shape[-1]
    last = [layer.info.units for layer in watched if not layer.info.hidden and layer.info.units is not None]
    return last[0] if len(last) == 1 else None
