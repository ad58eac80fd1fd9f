"""The layers of a Keras model that are watched: what each is, owns, and which call shows its output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from autotrainer.backends.keras3.layers.inserted import Residual
from autotrainer.backends.keras3.model.kinds import activation_name, kind_of
from autotrainer.records.signals import LayerInfo

__all__ = ["Part", "find_parts", "in_known_order", "output_activation", "with_unowned"]

_PASSES_VALUES_ON = ("dropout", "pool", "reshape")
_OWNS_AN_ACTIVATION = ("dense", "conv", "recurrent")


@dataclass(frozen=True, slots=True)
class Part:
    """One row of the layer table.

    Attributes:
        info: What is known of it.
        layer: The layer that owns the weights.
        caller: The layer whose call gives the output: the same, or a wrapper such as `TimeDistributed`.
        weights: Its own trainable and frozen weights (not moving statistics), in order.
        activation: The activation that it applies itself, or None.
    """

    info: LayerInfo
    layer: Any
    caller: Any
    weights: tuple[Any, ...]
    activation: str | None


def find_parts(model: Any) -> tuple[Part, ...]:
    """Return the layers with weights and the activation layers, nested models flattened.

    Sequential and Functional models give them in forward order, others in the order in which they were made.
    """
    parts = tuple(_walk(model, "", set()))
    _, makers = output_activation(model)
    if not any(id(part.layer) in makers for part in parts):
        makers = frozenset(id(p.layer) for p in parts[-1:])
    parts = _with_following_activations(parts, chain=isinstance(model, keras.Sequential))
    return tuple(replace(p, info=replace(p.info, hidden=id(p.layer) not in makers)) for p in parts)


def with_unowned(parts: Sequence[Part], optimizers: Sequence[Any]) -> list[Part]:
    """Return the layers with the number of their weights that none of the optimizers moves, where all are built."""
    inner = [getattr(optimizer, "inner_optimizer", optimizer) for optimizer in optimizers]
    if not inner or not all(optimizer.built for optimizer in inner):
        return list(parts)
    owned = {id(v) for optimizer in inner for v in optimizer._trainable_variables}
    missing = [sum(_size(v) for v in p.weights if v.trainable and id(v) not in owned) for p in parts]
    return [replace(p, info=replace(p.info, unowned=n)) for p, n in zip(parts, missing, strict=True)]


def in_known_order(model: Any) -> bool:
    """Say whether the forward order of a model's layers is known without running it."""
    return isinstance(model, keras.Sequential) or _is_functional(model)


def output_activation(model: Any) -> tuple[str | None, frozenset[int]]:
    """Return what the (first) output went through, and the ids of the layers that make the outputs.

    Returns:
        Name of the activation (``linear`` for none), or None if it can't be known without running the model;
        ids of the layers with weights and of the activations that stand last.
    """
    makers: set[int] = set()
    if isinstance(model, keras.Sequential):
        return _trace_sequence(list(reversed(model.layers)), makers), frozenset(makers)
    if not _is_functional(model):
        return None, frozenset()
    found = [_trace(tensor, makers) for tensor in keras.tree.flatten(model.outputs)]
    return (found[0] if found else None), frozenset(makers)


def _is_functional(model: Any) -> bool:
    return isinstance(model, keras.Model) and bool(getattr(model, "_functional", None) or hasattr(model, "operations"))


def _walk(owner: Any, prefix: str, seen: set[int]) -> Iterator[Part]:
    for layer in _children(owner):
        if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
            continue
        seen.add(id(layer))
        name = prefix + layer.name
        if isinstance(layer, keras.layers.Bidirectional):
            for inner in (layer.forward_layer, layer.backward_layer):
                yield _part(f"{name}/{inner.name}", inner, inner)
        elif isinstance(layer, Residual):
            inner = _part(f"{name}/{layer.layer.name}", layer.layer, layer.layer)
            if layer.activation is None:
                yield inner
                continue
            behind = _part(f"{name}/{layer.activation.name}", layer.activation, layer.activation)
            yield from (replace(inner, info=replace(inner.info, activation=behind.activation)), behind)
        elif isinstance(layer, keras.layers.Wrapper) and not _children(layer.layer):
            yield _part(f"{name}/{layer.layer.name}", layer.layer, layer)
        elif kind_of(layer) == "other" and _children(layer):
            own = _part(name, layer, layer, own_only=True)
            if own.weights:
                yield own
            yield from _walk(layer, f"{name}/", seen)
        else:
            part, kind = _part(name, layer, layer), kind_of(layer)
            always = kind in ("activation", "attention", "embedding", *_OWNS_AN_ACTIVATION) or (
                kind == "norm" and not layer.built
            )
            if always or layer.weights or part.weights:
                yield part


def _children(layer: Any) -> list[Any]:
    layers = layer.layers if isinstance(layer, keras.Model) else layer._flatten_layers(False, recursive=False)
    return [child for child in layers if isinstance(child, keras.layers.Layer)]


def _part(name: str, layer: Any, caller: Any, *, own_only: bool = False) -> Part:
    owners = [layer] if own_only else layer._flatten_layers()
    weights = tuple(v for owner in owners for v in owner._trainable_variables)
    kind = kind_of(layer)
    activation: str | None = "linear"
    if kind in _OWNS_AN_ACTIVATION:
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
        parameters=sum(_size(v) for v in weights if v.trainable),
        frozen=bool(weights) and not any(v.trainable for v in weights),
    )
    return Part(info, layer, caller, weights, activation)


def _size(variable: Any) -> int:
    size = 1
    for n in variable.shape:
        size *= int(n)
    return size


def _units(layer: Any, weights: tuple[Any, ...]) -> int | None:
    for name in ("units", "filters", "output_dim"):
        value = getattr(layer, name, None)
        if isinstance(value, int):
            return value
    if kind_of(layer) == "norm" and weights:
        return int(weights[0].shape[-1])
    return None


def _with_following_activations(parts: tuple[Part, ...], *, chain: bool) -> tuple[Part, ...]:
    """Give each linear layer the activation layer that follows it (with nothing but a normalization between).

    Args:
        parts: The layers.
        chain: Whether each takes what the one before puts out, whatever the graph (not there yet) says.
    """
    result = list(parts)
    for here, part in enumerate(parts):
        if part.activation != "linear" or part.info.kind not in ("dense", "conv", "norm"):
            continue
        rest = [p for p in parts[here + 1 :] if p.info.kind != "norm" or part.info.kind == "norm"]
        if rest and rest[0].info.kind == "activation" and _feeds(part, rest[0], chain=chain):
            result[here] = replace(part, info=replace(part.info, activation=rest[0].activation))
        elif (called := _called_behind(part.caller)) is not None:
            result[here] = replace(part, info=replace(part.info, activation=called))
    return tuple(result)


def _called_behind(layer: Any) -> str | None:
    """Return the activation that a layer's output goes through in the graph, as an operation or a layer, or None."""
    while len(layer._outbound_nodes) == 1:
        layer = layer._outbound_nodes[0].operation
        if not isinstance(layer, keras.layers.Layer) or kind_of(layer) == "activation":
            return activation_name(layer)
        if kind_of(layer) not in ("norm", *_PASSES_VALUES_ON):
            return None
    return None


def _feeds(part: Part, activation: Part, *, chain: bool) -> bool:
    """Say whether an activation layer takes what a part puts out, as far as the graph tells."""
    if not activation.layer._inbound_nodes:
        return chain
    for node in activation.layer._inbound_nodes:
        for parent in node.parent_nodes:
            operation = parent.operation
            while operation is not part.caller and isinstance(operation, keras.layers.Layer):
                above = [n.operation for i in operation._inbound_nodes for n in i.parent_nodes]
                if kind_of(operation) not in ("norm", *_PASSES_VALUES_ON) or len(above) != 1:
                    break
                operation = above[0]
            if operation is part.caller:
                return True
    return False


def _trace_sequence(layers: list[Any], makers: set[int]) -> str | None:
    """Follow a chain from its end to what made its output; ``layers`` has the last one first."""
    for position, layer in enumerate(layers):
        if isinstance(layer, keras.Model):
            activation, inner = output_activation(layer)
            makers.update(inner)
            return activation
        inner_layer = layer.layer if isinstance(layer, keras.layers.TimeDistributed) else layer
        kind = kind_of(inner_layer)
        if kind in _PASSES_VALUES_ON:
            continue
        makers.add(id(inner_layer))
        if kind == "activation":
            _mark_source(layers[position + 1 :], makers)
            return activation_name(inner_layer)
        if kind in _OWNS_AN_ACTIVATION:
            return activation_name(getattr(inner_layer, "activation", None))
        return "linear" if kind in ("norm", "embedding", "attention") else None
    return None


def _mark_source(layers: list[Any], makers: set[int]) -> None:
    """Mark the layer with weights under a last activation as making the output too."""
    for layer in layers:
        if isinstance(layer, keras.Model) or kind_of(layer) not in (*_PASSES_VALUES_ON, "norm", "activation"):
            makers.add(id(layer))
            return


def _trace(tensor: Any, makers: set[int]) -> str | None:
    """Follow the graph of a Functional model from an output to what made it."""
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
        _mark_source([o for o in chain[1:] if isinstance(o, keras.layers.Layer)], makers)
        return activation_name(chain[0])
    layers = []
    for operation in chain:
        if not isinstance(operation, keras.layers.Layer):
            break
        layers.append(operation)
    return _trace_sequence(layers, makers)
