"""Weights that have the initial values of the table of an embedding, but are separate variables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.runtime.tensors import read_variable, to_array

__all__ = ["with_ties"]


def with_ties(layers: Sequence[WatchedLayer]) -> tuple[WatchedLayer, ...]:
    """Return the layers with ``tied_to`` and ``tie`` of those that hold a trainable copy of an embedding's table."""
    tables = [
        (watched.info.name, watched.layer._embeddings)
        for watched in layers
        if isinstance(watched.layer, keras.layers.Embedding) and watched.layer.built and watched.layer.trainable
    ]
    copies = {
        row: name
        for name, table in tables
        for row, weight in _matrices(layers)
        if weight is not table and _is_copy(weight, table)
    }
    return tuple(
        replace(watched, info=replace(watched.info, tied_to=copies[row], tie="equal")) if row in copies else watched
        for row, watched in enumerate(layers)
    )


def _matrices(layers: Sequence[WatchedLayer]) -> Iterator[tuple[int, Any]]:
    for row, watched in enumerate(layers):
        if not isinstance(watched.layer, keras.layers.Embedding):
            yield from ((row, weight) for weight in watched.weights if len(weight.shape) == 2 and weight.trainable)


def _is_copy(weight: Any, table: Any) -> bool:
    """Return whether a matrix or its transpose has the values of a table, which are not all the same."""
    shapes = tuple(weight.shape), tuple(table.shape)
    if shapes[0] not in (shapes[1], shapes[1][::-1]):
        return False
    values, expected = (to_array(read_variable(variable)) for variable in (weight, table))
    if values.flat[0] != expected.flat[0] or values.flat[-1] != expected.flat[-1] or not np.ptp(expected):
        return False
    return any(each.shape == expected.shape and np.array_equal(each, expected) for each in (values, values.T))
