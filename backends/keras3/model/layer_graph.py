"""Which layer feeds which in a Keras model with a graph, and which activation belongs to which weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import keras

from autotrainer.backends.keras3.layers.inserted import Residual
from autotrainer.backends.keras3.model.copying import has_graph, sublayers
from autotrainer.backends.keras3.model.layer_kinds import PASS_THROUGH, WITH_ACTIVATION, activation_name, kind_of
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer, watched_layers

__all__ = ["LayerGraph", "is_activation"]

_PASS_THROUGH = ("norm", *PASS_THROUGH)


class LayerGraph:
    """Neighbours of the layers (and operations) of a model, each within the Sequential or Functional that contains it.

    Args:
        model: The model. One without a graph (a subclass with its own `call`) has layers but no neighbours.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.layers = watched_layers(model)
        self._producers: dict[int, list[Any]] = defaultdict(list)
        self._consumers: dict[int, list[Any]] = defaultdict(list)
        self._nodes: dict[int, Any] = {}
        if has_graph(model):
            self._read(model)

    def _read(self, model: Any) -> None:
        for producer, consumer in _links(model):
            self._producers[id(consumer)].append(producer)
            self._consumers[id(producer)].append(consumer)
            if not isinstance(consumer, keras.layers.Layer):
                self._nodes[id(consumer)] = consumer
        for layer in model.layers:
            if has_graph(layer):
                self._read(layer)
            else:
                for inner in sublayers(layer):
                    self._nodes.setdefault(id(inner), layer)

    def node(self, layer: Any) -> Any:
        """Return the node of the graph for a layer: itself, or the wrapper around it; None without a graph."""
        return self._nodes.get(id(layer))

    def consumers(self, layer: Any) -> list[Any]:
        """Return the nodes that take the output of a node."""
        return self._consumers[id(layer)]

    def producers(self, layer: Any) -> list[Any]:
        """Return the nodes whose outputs a node takes, one entry for each use."""
        return self._producers[id(layer)]

    def find(self, layer: Any) -> WatchedLayer | None:
        """Return the watched layer of a Keras layer, or None."""
        return next((p for p in self.layers if p.layer is layer), None)

    def following_activation(self, watched: WatchedLayer) -> Any:
        """Return the separate activation (layer or operation) that follows a linear layer, or None.

        Normalization, dropout, pooling and reshaping may lie between.
        """
        layer = self.node(watched.layer)
        if isinstance(layer, Residual):
            return layer.activation
        while layer is not None:
            consumers = self.consumers(layer)
            if len(consumers) != 1:
                return None
            layer = consumers[0]
            if is_activation(layer):
                return layer
            if kind_of(layer) not in _PASS_THROUGH:
                return None
        return None

    def sources(self, layer: Any) -> list[WatchedLayer]:
        """Return the layers with weights that feed an activation layer."""
        sources: list[WatchedLayer] = []
        pending, visited = list(self._producers[id(self.node(layer) or layer)]), set()
        while pending:
            source = pending.pop()
            if id(source) in visited:
                continue
            visited.add(id(source))
            layers = [p for p in self.layers if self.node(p.layer) is source and p.info.kind in WITH_ACTIVATION]
            if layers:
                sources.extend(layers)
            elif not isinstance(source, keras.layers.Layer) or kind_of(source) in _PASS_THROUGH or _merges(source):
                pending.extend(self._producers[id(source)])
        return sources

    def output_chain(self) -> list[Any]:
        """Return the nodes before the single output, last first, up to a layer with weights or a branch."""
        return list(_chain(self.model))


def _links(model: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(model, keras.Sequential):
        yield from zip(model._layers, model._layers[1:], strict=False)
        return
    for node in _graph_nodes(model):
        if node.operation is not None and not node.is_input:
            for parent in node.parent_nodes:
                yield parent.operation, node.operation


def _graph_nodes(model: Any) -> list[Any]:
    return [node for depth in model._nodes_by_depth.values() for node in depth]


def _merges(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Add | keras.layers.Concatenate | keras.layers.Average | keras.layers.Multiply)


def _chain(model: Any) -> Iterator[Any]:
    if isinstance(model, keras.Sequential):
        for layer in reversed(model.layers):
            if has_graph(layer):
                yield from _chain(layer)
                return
            yield layer
            if kind_of(layer) not in (*_PASS_THROUGH, "activation"):
                return
        return
    operation = keras.tree.flatten(model.outputs)[0]._keras_history.operation
    nodes = {id(n.operation): n for n in _graph_nodes(model)}
    while operation is not None and not isinstance(operation, keras.layers.InputLayer):
        if has_graph(operation):
            yield from _chain(operation)
            return
        yield operation
        parents = nodes[id(operation)].parent_nodes
        continues = is_activation(operation) or kind_of(operation) in _PASS_THROUGH
        operation = parents[0].operation if continues and len(parents) == 1 else None


def is_activation(operation: Any) -> bool:
    """Return whether a layer or operation is an activation and nothing else."""
    if isinstance(operation, keras.layers.Layer):
        return kind_of(operation) == "activation"
    return isinstance(operation, keras.Operation) and activation_name(operation) is not None
