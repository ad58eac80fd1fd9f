"""The layers of a Keras model that are watched: their description, their weights, and whose call gives the output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from autotrainer.backends.keras3.layers.inserted import Residual
from autotrainer.backends.keras3.model.layer_kinds import PASS_THROUGH, WITH_ACTIVATION, activation_name, kind_of
from autotrainer.backends.keras3.model.optimizers import inner_optimizer
from autotrainer.records.signals import LayerInfo

__all__ = ["WatchedLayer", "has_weights", "in_known_order", "output_activation", "watched_layers", "with_unowned"]


@dataclass(frozen=True, slots=True)
class WatchedLayer:
    """A layer with a row in the layer table.

    Attributes:
        info: Its description.
        layer: The layer that owns the weights.
        caller: The layer whose call gives the output: itself, or a wrapper such as `TimeDistributed`.
        weights: Its trainable and frozen weights (not moving statistics), in order.
        activation: The activation that the layer itself applies; None if unknown.
    """

    info: LayerInfo
    layer: Any
    caller: Any
    weights: tuple[Any, ...]
    activation: str | None


def watched_layers(model: Any) -> tuple[WatchedLayer, ...]:
    """Return the layers with weights and the activation layers, nested models flattened.

    Sequential and Functional models give them in forward order, others in the order of creation.
    """
    layers = tuple(_walk(model, "", set()))
    if model.built:
        layers = tuple(
            replace(p, info=replace(p.info, parameters=p.info.parameters or _unmade(p.layer))) for p in layers
        )
    _, output_ids = output_activation(model)
    if not any(id(watched.layer) in output_ids for watched in layers):
        output_ids = frozenset(id(p.layer) for p in layers[-1:])
    layers = _with_following_activations(layers, chain=isinstance(model, keras.Sequential))
    return tuple(replace(p, info=replace(p.info, hidden=id(p.layer) not in output_ids)) for p in layers)


def with_unowned(layers: Sequence[WatchedLayer], optimizers: Sequence[Any]) -> list[WatchedLayer]:
    """Return the layers with the number of weights that no optimizer updates, once all optimizers are built."""
    inner = [inner_optimizer(optimizer) for optimizer in optimizers]
    if not inner or not all(optimizer.built for optimizer in inner):
        return list(layers)
    updated = {id(v) for optimizer in inner for v in optimizer._trainable_variables}
    unowned = [sum(math.prod(v.shape) for v in p.weights if v.trainable and id(v) not in updated) for p in layers]
    return [replace(p, info=replace(p.info, unowned=n)) for p, n in zip(layers, unowned, strict=True)]


def has_weights(model: Any) -> bool:
    """Return whether all weights have been created.

    A model that is never called itself never counts as built, and a model built by hand may have layers that only its
    first call builds.
    """
    layers = list(model._flatten_layers(include_self=False))
    return bool((model.built or (layers and model.weights)) and all(layer.built for layer in layers))


def in_known_order(model: Any) -> bool:
    """Return whether the forward order of a model's layers is known without running it."""
    return isinstance(model, keras.Sequential) or _is_functional(model)


def output_activation(model: Any, output: int = 0) -> tuple[str | None, frozenset[int]]:
    """Return the activation of an output, and the ids of the layers that compute the outputs.

    Args:
        model: The model.
        output: Which output.

    Returns:
        Name of the activation (``linear`` for none), or None if it can't be known without running the model;
        ids of the last layers with weights and of the last activations.
    """
    output_ids: set[int] = set()
    if isinstance(model, keras.Sequential):
        return _trace_sequence(list(reversed(model.layers)), output_ids), frozenset(output_ids)
    if not _is_functional(model):
        return None, frozenset()
    activations = [_trace(tensor, output_ids) for tensor in keras.tree.flatten(model.outputs)]
    return (activations[output] if output < len(activations) else None), frozenset(output_ids)


def _is_functional(model: Any) -> bool:
    return isinstance(model, keras.Model) and bool(getattr(model, "_functional", None) or hasattr(model, "operations"))


def _walk(owner: Any, prefix: str, visited: set[int]) -> Iterator[WatchedLayer]:
    for layer in _children(owner):
        if id(layer) in visited or isinstance(layer, keras.layers.InputLayer):
            continue
        visited.add(id(layer))
        name = prefix + layer.name
        if isinstance(layer, keras.layers.Bidirectional):
            for inner in (layer.forward_layer, layer.backward_layer):
                yield _watched(f"{name}/{inner.name}", inner, inner)
        elif isinstance(layer, Residual):
            inner = _watched(f"{name}/{layer.layer.name}", layer.layer, layer.layer)
            if layer.activation is None:
                yield inner
                continue
            activation = _watched(f"{name}/{layer.activation.name}", layer.activation, layer.activation)
            yield from (replace(inner, info=replace(inner.info, activation=activation.activation)), activation)
        elif isinstance(layer, keras.layers.Wrapper) and not _children(layer.layer):
            yield _watched(f"{name}/{layer.layer.name}", layer.layer, layer)
        elif kind_of(layer) == "other" and _children(layer):
            watched = _watched(name, layer, layer, alone=True)
            if watched.weights:
                yield watched
            yield from _walk(layer, f"{name}/", visited)
        else:
            watched, kind = _watched(name, layer, layer), kind_of(layer)
            always = kind in ("activation", "attention", "embedding", *WITH_ACTIVATION) or (
                kind == "norm" and not layer.built
            )
            if always or layer.weights or watched.weights:
                yield watched


def _children(layer: Any) -> list[Any]:
    layers = layer.layers if isinstance(layer, keras.Model) else layer._flatten_layers(False, recursive=False)
    return [child for child in layers if isinstance(child, keras.layers.Layer)]


def _watched(name: str, layer: Any, caller: Any, *, alone: bool = False) -> WatchedLayer:
    owners = [layer] if alone else layer._flatten_layers()
    weights = tuple(v for owner in owners for v in owner._trainable_variables)
    kind = kind_of(layer)
    activation: str | None = "linear"
    if kind in WITH_ACTIVATION:
        activation = activation_name(getattr(layer, "activation", None))
    elif kind == "activation":
        activation = activation_name(layer)
    elif kind == "other":
        activation = None
    info = LayerInfo(
        name=name,
        kind=kind,
        activation=activation,
        units=_units(layer, weights),
        inputs=_inputs(layer, weights),
        parameters=sum(math.prod(v.shape) for v in weights if v.trainable),
        frozen=bool(weights) and not any(v.trainable for v in weights),
        averaging=1 - float(layer.momentum) if isinstance(layer, keras.layers.BatchNormalization) else None,
    )
    return WatchedLayer(info, layer, caller, weights, activation)


def _unmade(layer: Any) -> int:
    """Return the parameters that an embedding of a built model would have, if it were called; 0 for other layers."""
    if layer.built or not layer.trainable or kind_of(layer) != "embedding":
        return 0
    sizes = [getattr(layer, name, 0) for name in ("input_dim", "output_dim")]
    return math.prod(size if isinstance(size, int) else 0 for size in sizes)


def _units(layer: Any, weights: tuple[Any, ...]) -> int | None:
    for name in ("units", "filters", "output_dim"):
        value = getattr(layer, name, None)
        if isinstance(value, int):
            return value
    if kind_of(layer) == "norm" and weights:
        return int(weights[0].shape[-1])
    sizes = _einsum_sizes(layer, weights)
    return None if sizes is None else sizes[1]


def _inputs(layer: Any, weights: tuple[Any, ...]) -> int | None:
    """Return the number of inputs of each unit, or of rows of an embedding, or None."""
    kind = kind_of(layer)
    if kind == "embedding" and isinstance(getattr(layer, "input_dim", None), int):
        return int(layer.input_dim)
    sizes = _einsum_sizes(layer, weights)
    if sizes is not None:
        return sizes[0]
    return int(weights[0].shape[0]) if kind == "dense" and weights and len(weights[0].shape) == 2 else None


def _einsum_sizes(layer: Any, weights: tuple[Any, ...]) -> tuple[int, int] | None:
    """Return inputs and units of an `EinsumDense`, whose kernel may have several axes of each; None for others."""
    equation = getattr(layer, "equation", None)
    if not isinstance(layer, keras.layers.EinsumDense) or not isinstance(equation, str) or not weights:
        return None
    operands, _, output = equation.replace("...", "").partition("->")
    axes = dict(zip(operands.partition(",")[2].strip(), weights[0].shape, strict=False))
    inputs = math.prod(size for axis, size in axes.items() if axis not in output)
    return inputs, math.prod(size for axis, size in axes.items() if axis in output)


def _with_following_activations(layers: tuple[WatchedLayer, ...], *, chain: bool) -> tuple[WatchedLayer, ...]:
    """Give each linear layer the activation of the activation layer that follows it, maybe after a normalization.

    Args:
        layers: The layers.
        chain: Whether each layer takes the output of the one before, even if there is no graph yet.
    """
    result = list(layers)
    for index, watched in enumerate(layers):
        if watched.activation != "linear" or watched.info.kind not in ("dense", "conv", "norm"):
            continue
        following = [p for p in layers[index + 1 :] if p.info.kind != "norm" or watched.info.kind == "norm"]
        if following and following[0].info.kind == "activation" and _feeds(watched, following[0], chain=chain):
            result[index] = replace(watched, info=replace(watched.info, activation=following[0].activation))
        elif (activation := _activation_in_graph(watched.caller)) is not None:
            result[index] = replace(watched, info=replace(watched.info, activation=activation))
        elif not chain and not watched.caller._inbound_nodes and watched.info.kind != "norm":
            result[index] = replace(watched, info=replace(watched.info, activation=None))  # it is called in user code
    return tuple(result)


def _activation_in_graph(layer: Any) -> str | None:
    """Return the activation (operation or layer) that follows a layer in the graph, or None."""
    while len(layer._outbound_nodes) == 1:
        layer = layer._outbound_nodes[0].operation
        if not isinstance(layer, keras.layers.Layer) or kind_of(layer) == "activation":
            return activation_name(layer)
        if kind_of(layer) not in ("norm", *PASS_THROUGH):
            return None
    return None


def _feeds(watched: WatchedLayer, activation: WatchedLayer, *, chain: bool) -> bool:
    """Return whether an activation layer takes the output of another layer, as far as the graph shows."""
    if not activation.layer._inbound_nodes:
        return chain
    for node in activation.layer._inbound_nodes:
        for parent in node.parent_nodes:
            operation = parent.operation
            while operation is not watched.caller and isinstance(operation, keras.layers.Layer):
                parents = [n.operation for i in operation._inbound_nodes for n in i.parent_nodes]
                if kind_of(operation) not in ("norm", *PASS_THROUGH) or len(parents) != 1:
                    break
                operation = parents[0]
            if operation is watched.caller:
                return True
    return False


def _trace_sequence(layers: list[Any], output_ids: set[int]) -> str | None:
    """Follow a chain of layers, the last one first, to the layer that computes its output."""
    for position, layer in enumerate(layers):
        if isinstance(layer, keras.Model):
            activation, inner = output_activation(layer)
            output_ids.update(inner)
            return activation
        inner_layer = layer.layer if isinstance(layer, keras.layers.TimeDistributed) else layer
        kind = kind_of(inner_layer)
        if kind in PASS_THROUGH:
            continue
        output_ids.add(id(inner_layer))
        if kind == "activation":
            _mark_source(layers[position + 1 :], output_ids)
            return activation_name(inner_layer)
        if kind in WITH_ACTIVATION:
            return activation_name(getattr(inner_layer, "activation", None))
        return "linear" if kind in ("norm", "embedding", "attention") else None
    return None


def _mark_source(layers: list[Any], output_ids: set[int]) -> None:
    """Add the layer with weights below a final activation."""
    for layer in layers:
        if isinstance(layer, keras.Model) or kind_of(layer) not in (*PASS_THROUGH, "norm", "activation"):
            output_ids.add(id(layer))
            return


def _trace(tensor: Any, output_ids: set[int]) -> str | None:
    """Follow the graph of a Functional model from an output to the layer that computes it."""
    chain: list[Any] = []
    history = getattr(tensor, "_keras_history", None)
    while history is not None:
        operation = history.operation
        if isinstance(operation, keras.layers.InputLayer):
            break
        chain.append(operation)
        inputs = operation._inbound_nodes[history.node_index].input_tensors
        history = inputs[0]._keras_history if len(inputs) == 1 else None
    if chain and not isinstance(chain[0], keras.layers.Layer):
        _mark_source([o for o in chain[1:] if isinstance(o, keras.layers.Layer)], output_ids)
        return activation_name(chain[0])
    layers = []
    for operation in chain:
        if not isinstance(operation, keras.layers.Layer):
            break
        layers.append(operation)
    return _trace_sequence(layers, output_ids)
