"""Statistics of embeddings: their indices, the rows that these select, and the gradients of those rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.runtime.tensors import (
    array_module,
    finite_or_inf,
    read_variable,
    sum_of_squares,
    to_array,
)
from autotrainer.records.measurement import LOOKUP_COLUMNS, ORDERED, names_positions
from autotrainer.records.signals import LOOKUP_ROWS, LOOKUP_STEPS, LOOKUP_VALUES, LOOKUPS

__all__ = ["EmbeddingStatistics", "measures_lookups", "takes_indices"]


def measures_lookups(needs: frozenset[str] | None) -> bool:
    """Return whether columns of embeddings are needed."""
    return needs is None or not needs.isdisjoint(LOOKUP_COLUMNS)


def takes_indices(watched: WatchedLayer, inputs: Any, output: Any) -> bool:
    """Return whether a call of a layer looks up rows of its table: the output has one axis more than the input."""
    if not isinstance(watched.layer, keras.layers.Embedding) or not keras.ops.is_tensor(inputs):
        return False
    return len(output.shape) == len(inputs.shape) + 1


class EmbeddingStatistics:
    """Measures the embeddings of one sampled step after the other."""

    def __init__(self) -> None:
        self._occurred: dict[int, NDArray[np.int64]] = {}
        self._had_gradient: dict[int, NDArray[np.bool_]] = {}

    def values(self, row: int, watched: WatchedLayer, recorded: Mapping[str, Any], scale: float) -> dict[str, float]:
        """Return the `LOOKUP_COLUMNS` of a layer, by name; empty if none of them applies.

        Args:
            row: Its row.
            watched: The layer.
            recorded: Recorded tensors: ``lookup:<row>``, ``gradient:<row>:<weight>``.
            scale: Factor by which the gradients are scaled.
        """
        has_gradients = any(name.startswith("gradient:") for name in recorded)
        values = _position_values(row, watched, recorded, scale) if has_gradients else {}
        indices = recorded.get(f"lookup:{row}")
        if indices is None or not math.prod(indices.shape):
            return values
        layer, numbers = watched.layer, to_array(indices)
        values |= _order(numbers, 0 if layer.mask_zero else None)
        table = layer._embeddings
        index = next((i for i, weight in enumerate(watched.weights) if weight is table), None)
        if has_gradients and index is not None:
            values |= self._row_values(row, layer, numbers.reshape(-1), recorded, f"gradient:{row}:{index}")
        return values

    def _row_values(
        self, row: int, layer: Any, indices: NDArray[Any], recorded: Mapping[str, Any], key: str
    ) -> dict[str, float]:
        most = min(LOOKUPS, max(1, LOOKUP_VALUES // int(layer.output_dim)))
        chosen = np.unique(indices[:: math.ceil(len(indices) / most)].astype(np.int64))
        inside = (chosen >= int(bool(layer.mask_zero))) & (chosen < layer.input_dim)  # some engines clip others
        chosen = chosen[inside]
        if not len(chosen):
            return {}
        occurred = self._occurred.setdefault(row, np.zeros(layer.input_dim, np.int64))
        occurred[chosen] += 1
        frequent = occurred >= LOOKUP_STEPS
        zero = (_rows(read_variable(layer._embeddings), chosen) == 0).all(-1)
        values = {"frequent_rows": float(frequent.sum()), "rows_of_zero": float((zero & frequent[chosen]).sum())}
        if not layer._embeddings.trainable:
            return values
        without = _without_gradient(recorded, key, chosen)
        had_gradient = self._had_gradient.setdefault(row, np.zeros(layer.input_dim, bool))
        had_gradient[chosen] |= ~without
        values["lookups_without_gradient"] = float(without.mean())
        values |= _typical_gradient(recorded, key, chosen)
        values["rows_without_gradient"] = float((frequent & ~had_gradient).sum())
        return values


def _position_values(row: int, watched: WatchedLayer, recorded: Mapping[str, Any], scale: float) -> dict[str, float]:
    if watched.info.kind not in ("embedding", "other"):
        return {}
    if not watched.layer.built and names_positions(f"{watched.info.name}/embeddings"):
        return {"position_grad_norm": 0.0}  # a layer that no step calls never gets weights
    named = [
        index
        for index, weight in enumerate(watched.weights)
        if weight.trainable and len(weight.shape) > 1 and names_positions(f"{watched.info.name}/{weight.name}")
    ]
    norms = [_gradient_norm(recorded, f"gradient:{row}:{index}") for index in named]
    return {"position_grad_norm": finite_or_inf(np.linalg.norm(norms) / scale)} if norms else {}


def _rows(values: Any, chosen: NDArray[np.int64]) -> NDArray[Any]:
    xp, table = array_module(values)
    return table[chosen] if xp is np else to_array(xp.take(table, chosen, axis=0))


def _without_gradient(recorded: Mapping[str, Any], key: str, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of the chosen rows have a gradient of exactly zero, or none."""
    if key in recorded:
        zero: NDArray[np.bool_] = (_rows(recorded[key], chosen) == 0).all(-1)
        return zero
    if f"{key}:values" not in recorded:
        return np.ones(len(chosen), bool)
    values, indices = to_array(recorded[f"{key}:values"]), to_array(recorded[f"{key}:indices"]).reshape(-1)
    nonzero = indices[(values.reshape(len(indices), -1) != 0).any(-1)]
    return ~np.isin(chosen, nonzero)


def _typical_gradient(recorded: Mapping[str, Any], key: str, chosen: NDArray[np.int64]) -> dict[str, float]:
    """Return ``typical_row_gradient``, as far as rows have a gradient."""
    if key in recorded:
        gradients = _rows(recorded[key], chosen)
    elif f"{key}:values" in recorded:
        values, indices = to_array(recorded[f"{key}:values"]), to_array(recorded[f"{key}:indices"]).reshape(-1)
        places = np.searchsorted(chosen, indices).clip(max=len(chosen) - 1)
        known = chosen[places] == indices
        gradients = np.zeros((len(chosen), values.size // len(indices)))
        np.add.at(gradients, places[known], values.reshape(len(indices), -1)[known])
    else:
        return {}
    sizes = np.linalg.norm(gradients.astype(float), axis=-1)
    largest = float(sizes.max())
    return {"typical_row_gradient": float(np.median(sizes)) / largest} if 0 < largest < math.inf else {}


def _gradient_norm(recorded: Mapping[str, Any], key: str) -> float:
    gradient = recorded.get(key, recorded.get(f"{key}:values"))
    return 0.0 if gradient is None else math.sqrt(sum_of_squares(*array_module(gradient)))


def _order(indices: NDArray[Any], padding: int | None) -> dict[str, float]:
    """Return what the order of indices along the last axis shows: ``padding_between``, rising and equal neighbours."""
    if not indices.ndim or indices.shape[-1] < 2:
        return {}
    rows = indices.reshape(-1, indices.shape[-1])
    rows = rows[:: math.ceil(len(rows) / LOOKUP_ROWS), : LOOKUPS * 4].astype(np.int64)
    steps = np.diff(rows, axis=1)
    values = {"rising_indices": float((steps == 1).mean()), "equal_indices": float((steps == 0).mean())}
    if padding is not None and indices.ndim > 1 and rows.shape[1] >= ORDERED:
        other = rows != padding
        if not other.all():
            alone = ~other[:, 1:-1] & other[:, :-2] & other[:, 2:]
            values["padding_between"] = float(alone.sum() / (~other).sum())
    return values
