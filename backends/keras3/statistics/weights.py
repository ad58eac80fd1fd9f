"""Statistics of weights in a step: norms, gradients, sizes of updates, and Adam's second moment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.model.optimizers import inner_optimizer
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.runtime.tensors import (
    array_module,
    dot,
    finite_or_inf,
    read_variable,
    sum_of_squares,
    to_array,
)
from autotrainer.backends.keras3.statistics.attention_parts import AttentionPart, attention_parts
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.records.signals import PARTS, SAMPLED_ENTRIES, Floats

__all__ = ["WeightStatistics"]


@dataclass(slots=True)
class _Gradient:
    """Numbers of the gradient of one weight, without the gradient itself."""

    weight: Any
    squares: float
    zeros: int
    stride: int
    entries: Floats
    parts: dict[int, float]
    """Sum of squares of each part of an attention layer that it holds, by index in `PARTS`."""


@dataclass(slots=True)
class _Weights:
    """Numbers of the trainable weights of a layer."""

    norm: float
    entries: Floats
    values: dict[str, float]
    """Root mean squares of its matrices, and of parts of an attention layer, by column."""


class WeightStatistics:
    """Measures weights and gradients of successive sampled steps.

    Args:
        layers: The layers.
        guard: Measures statistics, so that one that fails is left out alone.
        needs: Columns to measure; None for all.
    """

    def __init__(
        self, layers: Sequence[WatchedLayer], guard: StatisticGuard, needs: frozenset[str] | None = None
    ) -> None:
        self._layers = tuple(layers)
        self._guard = guard
        self._measures_cosine = needs is None or "gradient_cosine" in needs
        self._measures_moments = needs is None or "second_moment_ratio" in needs
        self._parts = [attention_parts(watched) if needs is None or "query_rms" in needs else {} for watched in layers]
        self._before: list[_Weights | None] = []
        self._frozen: list[dict[str, float]] | None = None  # read once, as they do not change
        self._last: dict[tuple[int, int], Floats] = {}
        self.gradient_factor = math.nan
        """Length of the gradient that the optimizer leaves by clipping, along the gradient, ÷ that of the gradient; NaN
        if it does not clip."""
        self.gradient_cosine = math.nan
        """Cosine similarity of the gradients of the last two measured steps; NaN before the second."""

    def before_step(self) -> None:
        """Store norm and sampled entries of all trainable weights."""
        with np.errstate(all="ignore"):
            pairs = enumerate(zip(self._layers, self._parts, strict=True))
            self._before = [self._guard.measure("weights", _numbers, *pair, row=row) for row, pair in pairs]

    def values(
        self, recorded: Mapping[str, Any], scale: float, updated: bool, optimizers: Sequence[Any]
    ) -> list[dict[str, float]]:
        """Return the columns of weights and gradients of the step just taken, one dict per layer.

        Args:
            recorded: Recorded tensors: ``gradient:<row>:<weight>``.
            scale: Factor by which the loss, and therefore the gradients, are scaled.
            updated: Whether the optimizer changed weights in this step.
            optimizers: The optimizers of the step.
        """
        table = [dict[str, float]() for _ in self._layers]
        before, self._before = self._before or [None] * len(self._layers), []
        if self._frozen is None:
            pairs = enumerate(zip(self._layers, self._parts, strict=True))
            self._frozen = [self._guard.measure("weights", _frozen_sizes, *pair, row=row) or {} for row, pair in pairs]
        for row, (watched, old) in enumerate(zip(self._layers, before, strict=True)):
            table[row] |= self._frozen[row]
            if old is not None:
                measure = self._guard.measure
                new = measure("weight updates", _entries_of, _trainable(watched), row=row) if updated else None
                table[row] |= measure("weights", _weight_values, old, new, row=row) or {}
        gradients = dict(self._gradients(recorded, scale))
        for row in range(len(self._layers)):
            of_row = [g for (owner, _), g in gradients.items() if owner == row]
            table[row] |= self._guard.measure("gradients", _gradient_values, of_row, row=row) or {}
            table[row] |= self._guard.measure("attention projections", self._part_values, row, gradients, row=row) or {}
        if self._measures_cosine:
            cosine = self._guard.measure("gradient direction", self._cosine, gradients)
            self.gradient_cosine = math.nan if cosine is None else cosine
        factor = self._guard.measure("gradients", _clipping_factor, gradients, optimizers)
        self.gradient_factor = math.nan if factor is None else factor
        if self._measures_moments and updated:
            ratios = self._guard.measure("optimizer state", _second_moment_ratios, gradients, optimizers)
            for row, ratio in (ratios or {}).items():
                table[row]["second_moment_ratio"] = ratio
        return table

    def _part_values(self, row: int, gradients: Mapping[tuple[int, int], _Gradient]) -> dict[str, float]:
        values = {}
        for index, parts in self._parts[row].items():
            for part in parts if (row, index) in gradients else ():
                gradient = gradients[row, index]
                mean = gradient.parts[part.part] / part.size(gradient.weight.shape)
                values[f"{PARTS[part.part]}_grad_rms"] = finite_or_inf(math.sqrt(mean))
        return values

    def _gradients(self, recorded: Mapping[str, Any], scale: float) -> Iterator[tuple[tuple[int, int], _Gradient]]:
        for row, watched in enumerate(self._layers):
            total = sum(math.prod(weight.shape) for weight in watched.weights if weight.trainable)
            for index, weight in enumerate(watched.weights):
                if weight.trainable:
                    numbers = self._guard.measure(
                        "gradients", self._gradient_of, recorded, row, index, total, scale, row=row
                    )
                    if numbers is not None:
                        yield (row, index), numbers

    def _gradient_of(
        self, recorded: Mapping[str, Any], row: int, index: int, total: int, scale: float
    ) -> _Gradient | None:
        """Return the numbers of the gradient of a weight; ``total`` is the number of trainable entries of its layer."""
        gradient, rows = _gradient(recorded, f"gradient:{row}:{index}")
        if gradient is None:
            return None
        weight = self._layers[row].weights[index]
        xp, array = array_module(gradient)
        stride = _stride(math.prod(weight.shape), total)
        entries = self._measures_cosine or self._measures_moments
        return _Gradient(
            weight,
            sum_of_squares(xp, array) / scale**2,
            math.prod(weight.shape) - int(xp.count_nonzero(array)),
            stride,
            (_entries(xp, array, stride, rows, weight.shape) if entries else np.zeros(0)) / scale,
            {part.part: sum_of_squares(xp, part.of(xp, array)) / scale**2 for part in self._parts[row].get(index, ())},
        )

    def _cosine(self, gradients: Mapping[tuple[int, int], _Gradient]) -> float:
        if not gradients:
            return math.nan
        last, self._last = self._last, {key: gradient.entries for key, gradient in gradients.items()}
        if {key: v.shape for key, v in last.items()} != {key: v.shape for key, v in self._last.items()}:
            return math.nan
        one, other = (np.concatenate(list(each.values())) for each in (last, self._last))
        sizes = _norm(one) * _norm(other)
        return float(np.clip(dot(one, other) / sizes, -1, 1)) if sizes and math.isfinite(sizes) else math.nan


def _norm(vector: Floats) -> float:
    return float(np.sqrt(dot(vector, vector)))


def _trainable(watched: WatchedLayer) -> list[Any]:
    return [weight for weight in watched.weights if weight.trainable]


def _stride(size: int, total: int) -> int:
    """Return the stride that samples a weight's share of the entries of a layer with ``total`` weights."""
    return math.ceil(size / max(1, math.ceil(size * min(1.0, SAMPLED_ENTRIES / max(total, 1))))) or 1


def _numbers(watched: WatchedLayer, parts: Mapping[int, Sequence[AttentionPart]]) -> _Weights | None:
    """Return the numbers of the trainable weights of a layer; None without any."""
    squares, matrix_squares, matrix_size, vector_squares, vector_size = 0.0, 0.0, 0, 0.0, 0
    values: dict[str, float] = {}
    pieces = []
    total = sum(math.prod(weight.shape) for weight in _trainable(watched))
    for index, weight in enumerate(watched.weights):
        if not weight.trainable:
            continue
        xp, array = array_module(read_variable(weight))
        pieces.append(_entries(xp, array, _stride(math.prod(weight.shape), total)))
        square = sum_of_squares(xp, array)
        squares += square
        if len(weight.shape) > 1:
            matrix_squares, matrix_size = matrix_squares + square, matrix_size + math.prod(weight.shape)
        else:
            vector_squares, vector_size = vector_squares + square, vector_size + math.prod(weight.shape)
        for part in parts.get(index, ()):
            mean = sum_of_squares(xp, part.of(xp, array)) / part.size(weight.shape)
            values[f"{PARTS[part.part]}_rms"] = finite_or_inf(math.sqrt(mean))
    if not pieces:
        return None
    if vector_size and watched.info.kind != "norm":
        values["bias_rms"] = finite_or_inf(math.sqrt(vector_squares / vector_size))
    if matrix_size:
        values["weight_rms"] = finite_or_inf(math.sqrt(matrix_squares / matrix_size))
    return _Weights(math.sqrt(squares) if squares >= 0 else math.inf, np.concatenate(pieces), values)


def _frozen_sizes(watched: WatchedLayer, parts: Mapping[int, Sequence[AttentionPart]]) -> dict[str, float]:
    """Return root mean squares of the frozen matrices of a layer, and of their parts, by column."""
    values, squares, size = dict[str, float](), 0.0, 0
    for index, weight in enumerate(watched.weights):
        if weight.trainable or len(weight.shape) < 2 or "float" not in str(weight.dtype):
            continue
        xp, array = array_module(read_variable(weight))
        squares, size = squares + sum_of_squares(xp, array), size + math.prod(weight.shape)
        for part in parts.get(index, ()):
            mean = sum_of_squares(xp, part.of(xp, array)) / part.size(weight.shape)
            values[f"{PARTS[part.part]}_rms"] = finite_or_inf(math.sqrt(mean))
    return values | ({"weight_rms": finite_or_inf(math.sqrt(squares / size))} if size else {})


def _entries_of(weights: list[Any]) -> Floats:
    """Return at most 4096 evenly strided entries of some weights."""
    total = sum(math.prod(weight.shape) for weight in weights)
    pieces = []
    for weight in weights:
        xp, array = array_module(read_variable(weight))
        pieces.append(_entries(xp, array, _stride(math.prod(weight.shape), total)))
    return np.concatenate(pieces)


def _entries(xp: Any, array: Any, stride: int, rows: NDArray[Any] | None = None, shape: tuple[int, ...] = ()) -> Floats:
    """Return a copy of evenly strided entries of an array, which may be given by its nonzero rows.

    Args:
        xp: Module that handles the array.
        array: The array, or its nonzero rows.
        stride: Distance of the entries.
        rows: Sorted numbers of those rows; None for a whole array.
        shape: Shape of the whole array, where rows are given.
    """
    if rows is None:
        return np.array(to_array(xp.reshape(array, (-1,))[::stride]), np.float64)
    row, index = np.divmod(np.arange(0, math.prod(shape), stride), max(1, math.prod(shape[1:])))
    position = np.searchsorted(rows, row)
    nonzero = np.append(rows, -1)[position] == row
    entries = np.zeros(len(row))
    entries[nonzero] = array.reshape(len(rows), -1)[position[nonzero], index[nonzero]]
    return entries


def _weight_values(old: _Weights, new: Floats | None) -> dict[str, float]:
    values = {"weight_norm": finite_or_inf(old.norm), **old.values}
    length = _norm(old.entries)
    if new is not None and length:
        values["update_ratio"] = finite_or_inf(_norm(new - old.entries) / length)
    return values


def _gradient_values(gradients: Sequence[_Gradient]) -> dict[str, float]:
    size = sum(math.prod(gradient.weight.shape) for gradient in gradients)
    if not size:
        return {}
    values = {
        "grad_norm": finite_or_inf(np.sqrt(sum(gradient.squares for gradient in gradients))),
        "grad_zero_fraction": sum(gradient.zeros for gradient in gradients) / size,
    }
    matrices = [gradient for gradient in gradients if len(gradient.weight.shape) > 1]
    if matrices:
        entries = sum(math.prod(gradient.weight.shape) for gradient in matrices)
        values["weight_grad_rms"] = finite_or_inf(np.sqrt(sum(gradient.squares for gradient in matrices) / entries))
    return values


def _gradient(recorded: Mapping[str, Any], key: str) -> tuple[Any, NDArray[Any] | None]:
    """Return a gradient or None; for a sparse one its nonzero rows, with repeated rows summed, and their indices."""
    if key in recorded or f"{key}:values" not in recorded:
        return recorded.get(key), None
    values, indices = to_array(recorded[f"{key}:values"]), to_array(recorded[f"{key}:indices"])
    rows, indices = np.unique(indices, return_inverse=True)
    summed = np.zeros((len(rows), *values.shape[1:]), values.dtype)
    np.add.at(summed, indices.reshape(-1), values)
    return summed, rows


def _second_moment_ratios(
    gradients: Mapping[tuple[int, int], _Gradient], optimizers: Sequence[Any]
) -> dict[int, float]:
    """Return, by row, the root of the mean of g² / max(v, ε²) over the weights that Adam or a variant of it updates.

    See `autotrainer.records.signals.SAMPLED_ENTRIES`. g is clipped as the optimizer does, as in v.
    """
    ratios: dict[int, list[Floats]] = {}
    for optimizer in optimizers:
        optimizer = inner_optimizer(optimizer)
        steps = _steps_of(optimizer)
        if not steps:
            continue
        moments = optimizer._velocity_hats if getattr(optimizer, "amsgrad", False) else optimizer._velocities
        indices = optimizer._trainable_variables_indices
        moved = {key: g for key, g in gradients.items() if optimizer._var_key(g.weight) in indices}
        total = math.sqrt(sum(g.squares for g in moved.values()))
        for (row, _), gradient in moved.items():
            xp, moment = array_module(read_variable(moments[optimizer._get_variable_index(gradient.weight)]))
            v = _entries(xp, moment, gradient.stride) / (1 - optimizer.beta_2**steps)
            g = _clipped(gradient, optimizer, total)
            ratios.setdefault(row, []).append(g**2 / np.maximum(v, optimizer.epsilon**2))
    return {row: finite_or_inf(np.sqrt(np.mean(np.concatenate(each)))) for row, each in ratios.items()}


def _clipping_factor(gradients: Mapping[tuple[int, int], _Gradient], optimizers: Sequence[Any]) -> float:
    """Return the scalar product of the clipped gradient and the gradient, ÷ the squared norm of the gradient.

    From the settings of the only optimizer, whose clipping of values shows in the entries that are kept.
    """
    optimizer = inner_optimizer(optimizers[0]) if len(optimizers) == 1 else None
    total = math.sqrt(sum(gradient.squares for gradient in gradients.values()))
    if optimizer is None or optimizer.gradient_accumulation_steps or not 0 < total < math.inf:
        return math.nan
    if optimizer.clipnorm:
        lengths = [math.sqrt(gradient.squares) for gradient in gradients.values()]
        return float(sum(min(optimizer.clipnorm, length) * length for length in lengths) / total**2)
    if optimizer.global_clipnorm:
        return min(1.0, float(optimizer.global_clipnorm) / total)
    if optimizer.clipvalue:
        kept = np.concatenate([gradient.entries for gradient in gradients.values()])
        squares = dot(kept, kept)
        clipped = np.clip(kept, -optimizer.clipvalue, optimizer.clipvalue)
        return dot(clipped, kept) / squares if squares else math.nan
    return math.nan


def _steps_of(optimizer: Any) -> int:
    """Return the steps of an optimizer; 0 for one without a second moment of single batches."""
    adam = isinstance(optimizer, keras.optimizers.Adam | keras.optimizers.Nadam)
    if not adam or not optimizer.built or optimizer.gradient_accumulation_steps:
        return 0
    return int(to_array(read_variable(optimizer._iterations)))


def _clipped(gradient: _Gradient, optimizer: Any, total: float) -> Floats:
    """Return the entries of a gradient, clipped by the optimizer; ``total`` is the norm of all its gradients."""
    entries = gradient.entries
    if optimizer.clipnorm:
        entries = entries * min(1.0, optimizer.clipnorm / max(math.sqrt(gradient.squares), 1e-30))
    elif optimizer.global_clipnorm:
        entries = entries * min(1.0, optimizer.global_clipnorm / max(total, 1e-30))
    elif optimizer.clipvalue:
        entries = np.clip(entries, -optimizer.clipvalue, optimizer.clipvalue)
    return entries
