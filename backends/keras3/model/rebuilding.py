"""Building a Keras model again from copies of its layers: unchanged, or with layers replaced or inserted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from autotrainer.backends.keras3.model.copying import (
    check_copy,
    copy_layer,
    copy_state,
    has_graph,
)

__all__ = ["copy_model", "rebuild"]


def copy_model(model: Any) -> Any:
    """Return an uncompiled copy of a model with the same weights, trainable flags and names.

    A copy of a model without a graph may have to be called once to create its weights.

    Raises:
        InputError: If the model is code that can't be recreated from its configuration.
    """
    if has_graph(model):
        return rebuild(model)
    copy = copy_layer(model)
    copy_state(model, copy)
    return copy


def rebuild(
    model: Any,
    *,
    replaced: Mapping[int, Any] | None = None,
    after: Mapping[int, Sequence[Any]] | None = None,
    head: Sequence[Any] = (),
    input_index: int = 0,
) -> Any:
    """Rebuild a Sequential or Functional model, uncompiled, from copies of its layers with their weights.

    Args:
        model: The model; it is not changed.
        replaced: `id` of a layer -> the new layer in its place.
        after: `id` of a layer -> new layers behind it.
        head: New layers in front of an input.
        entry: Which of the flattened inputs that is.

    Returns:
        A model of the same class and name.
    """
    rebuilding = _Rebuild(replaced or {}, after or {})
    new = rebuilding.model(model, head, input_index)
    for old, copy in rebuilding.copied:
        if isinstance(old, keras.Model):
            check_copy(old, copy)
        copy_state(old, copy)
    return new


class _Rebuild:
    """Remembers copies, so that a layer that is used twice stays one layer."""

    def __init__(self, replaced: Mapping[int, Any], after: Mapping[int, Sequence[Any]]) -> None:
        self._copies = dict(replaced)
        self._replaced = frozenset(replaced)
        self._after = after
        self.copied: list[tuple[Any, Any]] = []

    def model(self, model: Any, head: Sequence[Any] = (), input_index: int = 0) -> Any:
        new = (
            self._sequential(model, head)
            if isinstance(model, keras.Sequential)
            else self._functional(model, head, input_index)
        )
        if not model.trainable:
            new.trainable = False
        return new

    def _layer(self, layer: Any) -> Any:
        if id(layer) not in self._copies:
            if has_graph(layer):
                self._copies[id(layer)] = self.model(layer)
            else:
                self._copies[id(layer)] = copy_layer(layer)
                if isinstance(layer, keras.layers.Layer):
                    self.copied.append((layer, self._copies[id(layer)]))
        return self._copies[id(layer)]

    def _sequential(self, model: Any, head: Sequence[Any]) -> Any:
        layers: list[Any] = []
        first = model._layers[0] if model._layers else None
        if isinstance(first, keras.layers.InputLayer):
            layers.append(keras.Input(batch_shape=first.batch_shape, dtype=first.dtype, name=first.name))
        layers.extend(head)
        for layer in model.layers:
            layers.extend([self._layer(layer), *self._after.get(id(layer), ())])
        return keras.Sequential(layers, name=model.name)

    def _functional(self, model: Any, head: Sequence[Any], input_index: int) -> Any:
        inputs = keras.tree.map_structure(
            lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x._keras_history.operation.name), model.input
        )
        original = keras.tree.flatten(inputs)[input_index]
        changed = original
        for layer in head:
            changed = layer(changed)

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            args, kwargs = keras.tree.map_structure(lambda x: changed if x is original else x, (args, kwargs))
            if id(layer) in self._replaced and "mask" in kwargs and kwargs["mask"] is None:
                del kwargs["mask"]  # a Softmax takes one, other activations do not
            outputs = self._layer(layer)(*args, **kwargs)
            for inserted in self._after.get(id(layer), ()):
                outputs = inserted(outputs)
            return outputs

        outputs = model._run_through_graph(inputs, operation_fn=lambda layer: layer, call_fn=call)
        return type(model)(inputs, outputs, name=model.name)
