"""The number of operations of a forward pass, from the shapes of weights and outputs."""

from __future__ import annotations

import math
from typing import Any

import keras

from autotrainer.backends.keras3.model.layer_graph import LayerGraph

__all__ = ["count_operations"]


def count_operations(model: Any, example: Any) -> float:
    """Return the multiply-adds of one forward pass of one sample.

    Each kernel is applied once per position of its layer's output (pixel, time step), or just once if positions are
    unknown: in a subclassed model, and along axes of variable length. Biases and similar parameters count as one
    operation each.

    Args:
        model: A built model.
        example: Inputs of some samples.
    """
    total, graph = 0.0, LayerGraph(model)
    for watched in graph.layers:
        node = graph.node(watched.layer)
        positions = 1 if node is None else _positions(node, watched.info.kind)
        for variable in watched.weights:
            size = math.prod(variable.shape)
            total += (
                size * positions if len(variable.shape) > 1 and watched.info.kind != "embedding" else variable.shape[-1]
            )
    return max(total, float(_sizes(example)))


def _positions(layer: Any, kind: str) -> int:
    """Return how often a layer's kernels are applied to one sample."""
    tensors = keras.tree.flatten(layer.input if kind == "recurrent" else layer.output)
    shape = tensors[0].shape
    if kind == "conv":
        channels = 1 if getattr(layer, "data_format", None) == "channels_first" else len(shape) - 1
        return math.prod(n or 1 for axis, n in enumerate(shape) if axis not in (0, channels))
    return math.prod(n or 1 for n in shape[1:-1])


def _sizes(example: Any) -> int:
    return sum(math.prod(v.shape[1:]) for v in keras.tree.flatten(example))
