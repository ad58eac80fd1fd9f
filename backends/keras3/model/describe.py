"""What is known of a Keras training without running it: layers, loss, optimizer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import keras

from autotrainer.backends.keras3.model.kinds import kind_of
from autotrainer.backends.keras3.model.parts import Part, find_parts, output_activation
from autotrainer.backends.keras3.runtime.tensors import read_variable, scalar
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import LossInfo, OptimizerInfo, TaskContext

__all__ = ["context_of", "layers", "loss_info", "optimizer_info"]

# Errors of logarithms or ratios are no distance on the scale of the targets: they count as losses of one's own.
_FAMILIES = {
    "categorical_crossentropy": ("cross_entropy", "one_hot"),
    "categorical_focal_crossentropy": ("cross_entropy", "one_hot"),
    "categorical_generalized_cross_entropy": ("cross_entropy", "index"),
    "sparse_categorical_crossentropy": ("cross_entropy", "index"),
    "binary_crossentropy": ("binary_cross_entropy", "values"),
    "binary_focal_crossentropy": ("binary_cross_entropy", "values"),
    "kl_divergence": ("kl_divergence", "values"),
    "mean_squared_error": ("squared_error", "values"),
    "mean_absolute_error": ("absolute_error", "values"),
    "huber": ("huber", "values"),
    "log_cosh": ("huber", "values"),
    "hinge": ("hinge", "values"),
    "squared_hinge": ("hinge", "values"),
    "categorical_hinge": ("hinge", "one_hot"),
    "poisson": ("poisson", "values"),
}
_PROBABILITIES = ("cross_entropy", "binary_cross_entropy", "kl_divergence")
_SHORT = {
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    "mape": "mean_absolute_percentage_error",
    "msle": "mean_squared_logarithmic_error",
    "bce": "binary_crossentropy",
    "kld": "kl_divergence",
    "logcosh": "log_cosh",
}


def layers(model: Any) -> tuple[LayerInfo, ...]:
    """Return the layers with weights and the activation layers of a model, in forward order as far as known."""
    return tuple(part.info for part in find_parts(model))


def loss_info(loss: Any) -> LossInfo:
    """Describe a loss.

    Args:
        loss: Keras loss object, function, name or configuration, `functools.partial` of a loss function, a list or
            dict of them for several outputs (the first counts), or None.

    Returns:
        What it computes; family ``custom`` for what is not known here, ``none`` for None. A loss around another one,
        which it has as ``wrapped_loss``, computes what that one does.
    """
    loss = getattr(loss, "wrapped_loss", loss)
    while isinstance(loss, list | tuple | Mapping) and not _is_configuration(loss):
        found = list(loss.values()) if isinstance(loss, Mapping) else list(loss)
        loss = found[0] if found else None
    if loss is None:
        return LossInfo(name="none", family="none")
    if isinstance(loss, str) or _is_configuration(loss):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            return LossInfo(name=str(loss))
    options: dict[str, Any] = {}
    while isinstance(loss, partial):
        options = {**loss.keywords, **options}
        loss = loss.func
    name, options = _loss_name(loss, options)
    family, targets = _FAMILIES.get(name, ("custom", "values"))
    if family == "custom":
        return LossInfo(name=name, reduction=_reduction(loss))
    expects: Any = "values"
    if family in _PROBABILITIES:
        expects = "logits" if options.get("from_logits", False) else "probabilities"
    return LossInfo(name=name, family=family, expects=expects, targets=targets, reduction=_reduction(loss))


def optimizer_info(optimizer: Any) -> OptimizerInfo:
    """Describe an optimizer: object, name, or None."""
    if optimizer is None:
        return OptimizerInfo()
    if isinstance(optimizer, str | Mapping):
        optimizer = keras.optimizers.get(optimizer)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return OptimizerInfo(
        name=type(optimizer).__name__.lower(),
        learning_rate=_rate_set(optimizer),
        momentum=_as_number(getattr(optimizer, "momentum", 0.0)),
        weight_decay=_as_number(getattr(optimizer, "weight_decay", 0.0)),
        scheduled=isinstance(
            getattr(optimizer, "_learning_rate", None), keras.optimizers.schedules.LearningRateSchedule
        ),
    )


def _rate_set(optimizer: Any) -> float:
    """Return the learning rate that a training begins with; where a warm-up leads to it, that after the warm-up."""
    target = getattr(getattr(optimizer, "_learning_rate", None), "warmup_target", None)
    return learning_rate(optimizer) if target is None else float(target)


def learning_rate(optimizer: Any) -> float:
    """Return the learning rate in force now; NaN if there is none to read."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    rate = getattr(optimizer, "learning_rate", None)
    if rate is None:
        return float("nan")
    return scalar(read_variable(rate) if isinstance(rate, keras.Variable) else rate)


def context_of(model: Any, parts: Sequence[Part], loss: Any, optimizer: Any) -> TaskContext:
    """Return what is known of a training: layers, loss, optimizer, outputs and kind of input."""
    activation, _ = output_activation(model)
    return TaskContext(
        framework="keras3",
        engine=keras.backend.backend(),
        loss=loss_info(loss),
        optimizer=optimizer_info(optimizer),
        layers=tuple(part.info for part in parts),
        output_activation=activation,
        output_units=_output_units(model, parts),
        input_kind=_input_kind(model, parts),
        dropout=max(_dropout_rates(model), default=0.0),
    )


def _dropout_rates(model: Any) -> list[float]:
    """Return the shares of values that layers leave out at random in training; recurrent layers do so themselves."""
    names = {"dropout": ("rate",), "recurrent": ("dropout", "recurrent_dropout")}
    layers = model._flatten_layers() if isinstance(model, keras.layers.Layer) else ()
    return [_as_number(getattr(layer, name, 0.0)) for layer in layers for name in names.get(kind_of(layer), ())]


def _input_kind(model: Any, parts: Sequence[Part]) -> str:
    if parts and parts[0].info.kind == "embedding":
        return "index"
    layer = model
    while isinstance(layer, keras.Model):
        inner = [child for child in layer.layers if not isinstance(child, keras.layers.InputLayer)]
        if not inner:
            return "values"
        layer = inner[0]
    return "scaled" if kind_of(layer) == "norm" or isinstance(layer, keras.layers.Rescaling) else "values"


def _is_configuration(loss: Any) -> bool:
    return isinstance(loss, Mapping) and "class_name" in loss and "config" in loss


def _loss_name(loss: Any, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the canonical name of a loss (its own name if it is not Keras' own) and its options."""
    if isinstance(loss, keras.losses.Loss):
        options = {**getattr(loss, "_fn_kwargs", {}), **options}
        function = getattr(loss, "fn", None)
        if function is not None and type(loss).__module__.startswith("keras."):
            return _function_name(function), options
        for base in type(loss).__mro__:
            if "call" in vars(base) and not base.__module__.startswith("keras."):
                return _foreign(_snake(type(loss).__name__)), options
        return (_function_name(function) if function is not None else _snake(type(loss).__name__)), options
    return _function_name(loss), options


def _function_name(function: Any) -> str:
    name = str(getattr(function, "__name__", type(function).__name__))
    if not str(getattr(function, "__module__", "")).startswith("keras."):
        return _foreign(name)
    return _SHORT.get(name, name)


def _foreign(name: str) -> str:
    """Return a name that can't be taken for one of Keras' own."""
    return name if _SHORT.get(name, name) not in _FAMILIES else f"custom {name}"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _reduction(loss: Any) -> str:
    reduction = getattr(loss, "reduction", "mean")
    if reduction in (None, "none"):
        return "none"
    return "sum" if reduction == "sum" else "mean"


def _as_number(value: Any) -> float:
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return 0.0


def _output_units(model: Any, parts: Sequence[Part]) -> int | None:
    try:
        outputs = keras.tree.flatten(model.outputs)
    except (AttributeError, ValueError):  # not built, or no graph
        outputs = []
    if outputs and len(outputs[0].shape) > 1 and outputs[0].shape[-1] is not None:
        return int(outputs[0].shape[-1])
    last = [part.info.units for part in parts if not part.info.hidden and part.info.units is not None]
    return last[0] if len(last) == 1 else None
