"""Who feeds whom in a Keras model with a graph: where activations stand, and which weights they belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import keras

from autotrainer.backends.keras3.layers.inserted import Residual
from autotrainer.backends.keras3.model.kinds import activation_name, kind_of
from autotrainer.backends.keras3.model.parts import Part, find_parts
from autotrainer.backends.keras3.model.structure import has_graph, sublayers

__all__ = ["Graph", "activates"]

_PASSES_ON = ("norm", "dropout", "pool", "reshape")
_OWNS_AN_ACTIVATION = ("dense", "conv", "recurrent")


class Graph:
    """Neighbours of the layers (and operations) of a model, each within the Sequential or Functional that holds it.

    Args:
        model: The model. One without a graph (a subclass with a `call` of its own) has parts but no neighbours.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.parts = find_parts(model)
        self._before: dict[int, list[Any]] = defaultdict(list)
        self._behind: dict[int, list[Any]] = defaultdict(list)
        self._node: dict[int, Any] = {}
        if has_graph(model):
            self._read(model)

    def _read(self, model: Any) -> None:
        for before, behind in _links(model):
            self._before[id(behind)].append(before)
            self._behind[id(before)].append(behind)
            if not isinstance(behind, keras.layers.Layer):
                self._node[id(behind)] = behind
        for layer in model.layers:
            if has_graph(layer):
                self._read(layer)
            else:
                for inner in sublayers(layer):
                    self._node.setdefault(id(inner), layer)

    def node(self, layer: Any) -> Any:
        """Return the layer of the graph that a layer is, or is inside of (a wrapper); None without a graph."""
        return self._node.get(id(layer))

    def behind(self, layer: Any) -> list[Any]:
        """Return what takes the output of a layer of the graph."""
        return self._behind[id(layer)]

    def before(self, layer: Any) -> list[Any]:
        """Return what a layer of the graph takes, once for each time."""
        return self._before[id(layer)]

    def part(self, layer: Any) -> Part | None:
        """Return the row of the layer table of a layer, or None."""
        return next((p for p in self.parts if p.layer is layer), None)

    def following_activation(self, part: Part) -> Any:
        """Return the separate activation (layer or operation) that a linear layer's output goes to, or None.

        Normalization, dropout, pooling and reshaping may lie between.
        """
        layer = self.node(part.layer)
        if isinstance(layer, Residual):
            return layer.activation
        while layer is not None:
            behind = self.behind(layer)
            if len(behind) != 1:
                return None
            layer = behind[0]
            if activates(layer):
                return layer
            if kind_of(layer) not in _PASSES_ON:
                return None
        return None

    def sources(self, layer: Any) -> list[Part]:
        """Return the layers with weights whose outputs make up the input of an activation layer."""
        found: list[Part] = []
        pending, seen = list(self._before[id(self.node(layer) or layer)]), set()
        while pending:
            above = pending.pop()
            if id(above) in seen:
                continue
            seen.add(id(above))
            own = [p for p in self.parts if self.node(p.layer) is above and p.info.kind in _OWNS_AN_ACTIVATION]
            if own:
                found.extend(own)
            elif not isinstance(above, keras.layers.Layer) or kind_of(above) in _PASSES_ON or _merges(above):
                pending.extend(self._before[id(above)])
        return found

    def output_chain(self) -> list[Any]:
        """Return what the single output went through, last first, up to the layer with weights or a branching."""
        return list(_chain(self.model))


def _links(model: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(model, keras.Sequential):
        yield from zip(model._layers, model._layers[1:], strict=False)
        return
    for node in _nodes(model):
        if node.operation is not None and not node.is_input:
            for parent in node.parent_nodes:
                yield parent.operation, node.operation


def _nodes(model: Any) -> list[Any]:
    return [node for depth in model._nodes_by_depth.values() for node in depth]


def _merges(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Add | keras.layers.Concatenate | keras.layers.Average | keras.layers.Multiply)


def _chain(model: Any) -> Iterator[Any]:
    graph = model
    if isinstance(model, keras.Sequential):
        for layer in reversed(model.layers):
            if has_graph(layer):
                yield from _chain(layer)
                return
            yield layer
            if kind_of(layer) not in (*_PASSES_ON, "activation"):
                return
        return
    operation = keras.tree.flatten(graph.outputs)[0]._keras_history.operation
    nodes = {id(n.operation): n for n in _nodes(graph)}
    while operation is not None and not isinstance(operation, keras.layers.InputLayer):
        if has_graph(operation):
            yield from _chain(operation)
            return
        yield operation
        parents = nodes[id(operation)].parent_nodes
        goes_on = activates(operation) or kind_of(operation) in _PASSES_ON
        operation = parents[0].operation if goes_on and len(parents) == 1 else None


def activates(operation: Any) -> bool:
    """Say whether a layer or operation is an activation and nothing else."""
    if isinstance(operation, keras.layers.Layer):
        return kind_of(operation) == "activation"
    return isinstance(operation, keras.Operation) and activation_name(operation) is not None
