"""Copying Keras layers and models that are code, with their weights and what edits have changed in place."""

from __future__ import annotations

import inspect
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.layers.inserted import BOUNDED, Residual, bound
from autotrainer.backends.keras3.runtime.keras_internals import (
    Functional,
    SafeModeScope,
    deserialize_keras_object,
    functional_like_constructor,
)
from autotrainer.errors import ConfigError, InputError

__all__ = [
    "check_copy",
    "check_stateless",
    "copy_layer",
    "copy_names",
    "copy_state",
    "copy_value",
    "has_graph",
    "sublayers",
]


_ADVICE = "give a zero-argument callable that builds the model, or implement get_config() and from_config()"
_PLAIN = (str, int, float, bool, types.NoneType)
_IDENTITY = frozenset({"name", "built", "seed", "layers", "training", "input_layers", "output_layers"})
"""What copies differ in, also in the configuration of layers inside others; those of models are compared themselves."""
_SET_BY_TRAINING = frozenset(
    {"compiled", "optimizer", "loss", "history", "steps_per_execution", "unrolled_steps_per_execution"}
    | {f"{run}_function" for run in ("train", "test", "predict")}
    | {f"stop_{run}" for run in ("training", "evaluating", "predicting")}
)
"""Attributes of a model that `compile`, `fit`, `evaluate` and `predict` set: copies need not have them."""


def has_graph(model: Any) -> bool:
    """Return whether a model is Sequential or Functional, so that it can be rebuilt from its layers."""
    if isinstance(model, keras.Sequential):
        return type(model) is keras.Sequential
    return (
        isinstance(model, Functional)
        and type(model).call is Functional.call
        and functional_like_constructor(type(model))
    )


def sublayers(layer: Any) -> Iterator[Any]:
    """Yield a layer and all layers inside it."""
    yield from layer._flatten_layers()


def check_stateless(model: Any) -> None:
    """Check that no layer keeps a state between batches: evaluating between them would change it.

    Raises:
        ConfigError: If one does.
    """
    for layer in sublayers(model):
        if getattr(layer, "stateful", False) is True:
            raise ConfigError(
                f"layer {layer.name!r} is stateful: its state would be lost between training and evaluation; "
                "build the model with stateful=False, or watch() your own fit()"
            )


def copy_state(old: Any, new: Any) -> None:
    """Copy weights and trainable flags to a layer of the same kind, as far as it has been built."""
    for layer, twin in zip(sublayers(old), sublayers(new), strict=False):
        if type(layer) is type(twin) and twin.trainable != layer.trainable:
            twin.trainable = layer.trainable
        _copy_in_place_edits(layer, twin)
    if [w.shape for w in old.weights] == [w.shape for w in new.weights]:
        for weight, twin in zip(old.weights, new.weights, strict=True):
            copy_value(weight, twin)
            if twin.trainable != weight.trainable:
                twin.trainable = weight.trainable
    for layer, twin in zip(sublayers(old), sublayers(new), strict=False):
        _copy_adapted(layer, twin)


def _copy_adapted(old: Any, new: Any) -> None:
    """Copy what a preprocessing layer has learned in `adapt`, and keeps outside of its weights and configuration."""
    if isinstance(new, keras.layers.Discretization) and type(old) is type(new):
        new.bin_boundaries = old.bin_boundaries
    if isinstance(new, keras.layers.Normalization):  # it computes with tensors that are made of its weights
        new.finalize_state()
    if isinstance(new, keras.layers.TextVectorization) and type(old) is type(new):
        old, new = old._lookup_layer, new._lookup_layer
    if isinstance(new, keras.layers.IntegerLookup | keras.layers.StringLookup) and type(old) is type(new):
        vocabulary = old.get_vocabulary(include_special_tokens=False)
        if vocabulary and vocabulary != new.get_vocabulary(include_special_tokens=False):
            weighted = old.output_mode == "tf_idf"
            new.set_vocabulary(vocabulary, np.asarray(old.idf_weights)[-len(vocabulary) :] if weighted else None)


def _copy_in_place_edits(old: Any, new: Any) -> None:
    """Copy what edits have changed in place, which the configuration does not show."""
    if type(old) in BOUNDED.values() and type(new) in BOUNDED:
        bound(new, old.limit)
    for before, after in ((old, new), (getattr(old, "cell", None), getattr(new, "cell", None))):
        activation = getattr(before, "activation", None)
        if before is None or type(before) is not type(after) or isinstance(activation, keras.layers.Layer):
            continue
        if after is not None and callable(activation) and activation is not getattr(after, "activation", activation):
            after.activation = activation


def copy_value(old: Any, new: Any) -> None:
    """Copy the value of a variable through NumPy: JAX would share the array and donate it later."""
    new.assign(np.array(keras.ops.convert_to_numpy(old)))


def copy_layer(layer: Any, **changes: Any) -> Any:
    """Return a layer, model or operation of the same configuration except for ``changes``, with new weights.

    Raises:
        InputError: If it is code that can't be recreated from its configuration.
    """
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
        return _from_config(layer)
    if isinstance(layer, keras.layers.Lambda):
        return _copy_lambda(layer)
    if isinstance(layer, Residual):
        activation = None if layer.activation is None else copy_layer(layer.activation)
        return Residual(copy_layer(layer.layer), activation, name=layer.name)
    activation = getattr(layer, "activation", None)
    if isinstance(activation, types.FunctionType) and not isinstance(layer, keras.layers.RNN):
        # A function of the user's, even a lambda, needs no registration if the function object itself is set.
        copy = _from_config(layer, activation="linear", **changes)
        copy.activation = activation
        return copy
    return _from_config(layer, **changes)


def _copy_lambda(layer: Any) -> Any:
    return keras.layers.Lambda(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=layer.arguments,
        name=layer.name,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )


def _from_config(source: Any, **changes: Any) -> Any:
    """Recreate a model, layer or operation from its configuration or its constructor arguments.

    Keras records the arguments of a layer's constructor, but not those of a model: a subclassed model that does not
    override `get_config` is made with the arguments that it keeps as attributes (`check_copy` compares the two).
    """
    cls = type(source)
    with keras.saving.custom_object_scope(_custom_objects(source)), SafeModeScope(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that lambdas are unsafe in files: this copy stays in memory
        try:
            if isinstance(source, keras.Model) and not _overrides_get_config(cls):
                return _named_like(source, cls(**_arguments_in_attributes(source)))
            try:
                config = source.get_config()
                copy = cls.from_config({**config, **{name: v for name, v in changes.items() if name in config}})
                return _named_like(source, copy)  # a configuration that Keras recorded itself has no name
            except TypeError:
                recorded = getattr(source, "_auto_config", None)  # the constructor takes neither name nor trainable
                if recorded is None:
                    raise
                return _named_like(source, cls(**deserialize_keras_object(recorded.serialize())))
        except (NotImplementedError, TypeError, ValueError, AttributeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"{cls.__name__} can't be copied ({reason}): {_ADVICE}") from error


def _overrides_get_config(cls: Any) -> bool:
    owner = next(base for base in cls.__mro__ if "get_config" in vars(base))
    return cls.__module__.startswith("keras.") or not owner.__module__.startswith("keras.")


def _named_like(source: Any, copy: Any) -> Any:
    if copy.name != source.name:
        copy.name = source.name
    return copy


def _arguments_in_attributes(source: Any) -> dict[str, Any]:
    arguments = {}
    for name, parameter in inspect.signature(type(source).__init__).parameters.items():
        value = vars(source).get(name)
        if isinstance(value, list | tuple):
            value = list(value)
        plain = all(
            isinstance(v, (*_PLAIN, types.FunctionType)) for v in (value if isinstance(value, list) else [value])
        )
        if (
            parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and name in vars(source)
            and plain
        ):
            arguments[name] = value
    return arguments


def copy_names(source: Any, copy: Any) -> None:
    """Give the layers of a copy the names of the originals: code that creates layers again keeps counting."""
    for layer, twin in zip(sublayers(source), sublayers(copy), strict=False):
        _named_like(layer, twin)


def check_copy(source: Any, copy: Any) -> None:
    """Check that a copy of a model that is code has the same layers and plain attributes.

    Raises:
        InputError: If not; the message says what to pass instead.
    """
    pairs = list(zip(sublayers(source), sublayers(copy), strict=False))
    same = len(list(sublayers(source))) == len(list(sublayers(copy))) == len(pairs)
    if not same or not all(_settings(a) == _settings(b) for a, b in pairs):
        raise InputError(f"{type(source).__name__} can't be copied (the copy differs): {_ADVICE}")


def _settings(layer: Any) -> Any:
    attributes = {name: v for name, v in vars(layer).items() if not name.startswith("_") and isinstance(v, _PLAIN)}
    config: dict[str, Any] = {}
    if type(layer).__module__.startswith("keras."):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lambdas again
            config = layer.get_config()
    ignored = _IDENTITY | _SET_BY_TRAINING if isinstance(layer, keras.Model) else _IDENTITY
    return type(layer), [_without(values, ignored) for values in (attributes, config)]


def _without(values: Any, names: frozenset[str]) -> Any:
    """Return the values of a configuration without those of some names, at any depth."""
    if isinstance(values, dict):
        return {name: _without(value, names) for name, value in values.items() if name not in names}
    return [_without(value, names) for value in values] if isinstance(values, list | tuple) else values


def _custom_objects(source: Any) -> Mapping[str, Any]:
    """Return the custom classes and functions that a configuration may name, by name."""
    objects: dict[str, Any] = {}
    owners = list(sublayers(source)) if isinstance(source, keras.layers.Layer) else [source]
    for owner in owners:
        for value in (owner, *vars(owner).values()):
            kind = value if isinstance(value, types.FunctionType) else type(value)
            if not str(getattr(kind, "__module__", "")).startswith(("keras.", "builtins", "tensorflow.", "numpy")):
                objects[kind.__name__] = kind
    return objects
