"""Copies of Keras models, and the same model with layers put in, replaced or put in front of it."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.saving.serialization_lib import SafeModeScope

from autotrainer.errors import InputError

__all__ = ["copy_layer", "copy_model", "has_graph", "rebuild", "sublayers"]


def has_graph(model: Any) -> bool:
    """Say whether a model is Sequential or Functional, so that it can be taken apart and put together again."""
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


def copy_model(model: Any) -> Any:
    """Return an uncompiled copy of a built model with the same weights, trainable flags and names.

    Raises:
        InputError: If the model is code that can't be repeated from its configuration.
    """
    copy = rebuild(model, copy_layer) if has_graph(model) else _from_config(model)
    if [w.shape for w in copy.weights] == [w.shape for w in model.weights]:
        _copy_state(model, copy)
    return copy


def _copy_state(model: Any, copy: Any) -> None:
    for old, new in zip(model.weights, copy.weights, strict=True):
        new.assign(old)
        if new.trainable != old.trainable:
            new.trainable = old.trainable
    for old, new in zip(sublayers(model), sublayers(copy), strict=False):
        if type(old) is type(new) and new.trainable and not old.trainable:
            new.trainable = False


def copy_layer(layer: Any) -> Any:
    """Return a layer of the same configuration, with new weights; nested models with a graph are copied layer by layer.

    Works for operations of a Functional graph too.
    """
    if has_graph(layer):
        return rebuild(layer, copy_layer)
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
        return _from_config(layer)
    if isinstance(layer, keras.layers.Lambda):
        return _copy_lambda(layer)
    own = getattr(layer, "activation", None)
    if isinstance(own, types.FunctionType) and not isinstance(layer, keras.layers.RNN):
        # a function of the user's, a lambda even, needs no registration if it is handed over as it is
        config = {**layer.get_config(), "activation": "linear"}
        copy = _build(type(layer), config, layer)
        copy.activation = own
        return copy
    return _build(type(layer), layer.get_config(), layer)


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


def _from_config(model: Any) -> Any:
    try:
        return _build(type(model), model.get_config(), model)
    except (NotImplementedError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{type(model).__name__} can't be copied from its configuration ({_first_line(error)}): give a "
            "zero-argument callable that builds the model, or implement get_config() and from_config()"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _build(cls: Any, config: dict[str, Any], source: Any) -> Any:
    with keras.saving.custom_object_scope(_custom_objects(source)), SafeModeScope(False):
        return cls.from_config(config)


def _custom_objects(source: Any) -> Mapping[str, Any]:
    """Return the classes and functions that a configuration may name, by their name."""
    found: dict[str, Any] = {}
    owners = list(sublayers(source)) if isinstance(source, keras.layers.Layer) else [source]
    for owner in owners:
        for value in (owner, *vars(owner).values()):
            kind = value if isinstance(value, types.FunctionType) else type(value)
            if not str(getattr(kind, "__module__", "")).startswith(("keras.", "builtins", "tensorflow.", "numpy")):
                found[kind.__name__] = kind
    return found


def rebuild(
    model: Any,
    layer_of: Callable[[Any], Any] = lambda layer: layer,
    *,
    after: Mapping[int, Sequence[Any]] | None = None,
    head: Sequence[Any] = (),
    entry: int = 0,
) -> Any:
    """Put a Sequential or Functional model together anew, uncompiled.

    Args:
        model: The model. Its layers are used again, with their weights, where ``layer_of`` returns them.
        layer_of: Layer (or nested model) -> the one to use in its place.
        after: By `id` of a layer of ``model``: new layers that its output goes through.
        head: New layers that an input goes through first.
        entry: Position of that input among the flattened inputs.

    Returns:
        A model of the same class and name.
    """
    made: dict[int, Any] = {}

    def replaced(layer: Any) -> Any:
        if id(layer) not in made:
            made[id(layer)] = layer_of(layer)
        return made[id(layer)]

    if isinstance(model, keras.Sequential):
        return _rebuild_sequential(model, replaced, after or {}, head)
    return _rebuild_functional(model, replaced, after or {}, head, entry)


def _rebuild_sequential(
    model: Any, layer_of: Callable[[Any], Any], after: Mapping[int, Sequence[Any]], head: Sequence[Any]
) -> Any:
    layers: list[Any] = []
    first = model._layers[0] if model._layers else None
    if isinstance(first, keras.layers.InputLayer):
        layers.append(keras.Input(batch_shape=first.batch_shape, dtype=first.dtype, name=first.name))
    layers.extend(head)
    for layer in model.layers:
        layers.extend([layer_of(layer), *after.get(id(layer), ())])
    new = keras.Sequential(layers, name=model.name)
    if not model.trainable:
        new.trainable = False
    return new


def _rebuild_functional(
    model: Any, layer_of: Callable[[Any], Any], after: Mapping[int, Sequence[Any]], head: Sequence[Any], entry: int
) -> Any:
    inputs = keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x._keras_history.operation.name), model.input
    )
    entered = keras.tree.flatten(inputs)[entry]
    changed = entered
    for layer in head:
        changed = layer(changed)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = keras.tree.map_structure(lambda x: changed if x is entered else x, (args, kwargs))
        outputs = layer_of(layer)(*args, **kwargs)
        for piece in after.get(id(layer), ()):
            outputs = piece(outputs)
        return outputs

    outputs = model._run_through_graph(inputs, operation_fn=lambda layer: layer, call_fn=call)
    new = type(model)(inputs, outputs, name=model.name)
    if not model.trainable:
        new.trainable = False
    return new
