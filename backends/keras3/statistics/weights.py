"""What a step does to weights: their norms, their gradients, how far they move, and Adam's second moment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.model.parts import Part
from autotrainer.backends.keras3.runtime.tensors import home, measured, read_variable, sum_of_squares, to_array
from autotrainer.records.signals import SAMPLED_ENTRIES, Floats

__all__ = ["WeightStatistics"]


@dataclass(slots=True)
class _Gradient:
    """What is kept of the gradient of one weight: not the gradient."""

    weight: Any
    squares: float
    zeros: int
    stride: int
    entries: Floats


class WeightStatistics:
    """Measures weights and gradients at one sampled step after the other.

    Args:
        parts: The layers.
        needs: Columns that are worth measuring, None for all.
    """

    def __init__(self, parts: Sequence[Part], needs: frozenset[str] | None = None) -> None:
        self._parts = tuple(parts)
        self._compares = needs is None or "gradient_cosine" in needs
        self._reads_moments = needs is None or "second_moment_ratio" in needs
        self._before: list[tuple[float, Floats] | None] = []
        self._last: dict[tuple[int, int], Floats] = {}
        self.gradient_cosine = math.nan
        """Cosine of the angle between the gradient of the last two steps measured; NaN if there are no two."""

    def before_step(self) -> None:
        """Remember norm and sampled entries of all trainable weights."""
        with np.errstate(all="ignore"):
            self._before = [_norm_and_entries(_trainable(part)) for part in self._parts]

    def values(
        self, seen: Mapping[str, Any], scale: float, updated: bool, optimizers: Sequence[Any]
    ) -> list[dict[str, float]]:
        """Return the columns of weights and gradients of the step that has just been taken, one dict a layer.

        Args:
            seen: What was recorded: ``gradient:<row>:<weight>``.
            scale: Factor by which the loss was scaled, and so the gradients are.
            updated: Whether the optimizer changed weights in this step.
            optimizers: Those that took the step.
        """
        table = [dict[str, float]() for _ in self._parts]
        before, self._before = self._before or [None] * len(self._parts), []
        for row, (part, old) in enumerate(zip(self._parts, before, strict=True)):
            if old is not None:
                table[row] |= _weight_values(old, _norm_and_entries(_trainable(part)) if updated else None)
        found = dict(self._gradients(seen, scale))
        for row in range(len(self._parts)):
            table[row] |= _gradient_values([g for (owner, _), g in found.items() if owner == row])
        if self._compares:
            self.gradient_cosine = self._cosine(found)
        if self._reads_moments and updated:
            for row, ratio in _second_moment_ratios(found, optimizers).items():
                table[row]["second_moment_ratio"] = ratio
        return table

    def _gradients(self, seen: Mapping[str, Any], scale: float) -> Iterator[tuple[tuple[int, int], _Gradient]]:
        entries = self._compares or self._reads_moments
        for row, part in enumerate(self._parts):
            total = sum(math.prod(weight.shape) for weight in part.weights if weight.trainable)
            for place, weight in enumerate(part.weights):
                gradient, rows = _gradient(seen, f"gradient:{row}:{place}")
                if gradient is None or not weight.trainable:
                    continue
                xp, array = home(gradient)
                stride = _stride(math.prod(weight.shape), total)
                yield (
                    (row, place),
                    _Gradient(
                        weight,
                        sum_of_squares(xp, array) / scale**2,
                        math.prod(weight.shape) - int(xp.count_nonzero(array)),
                        stride,
                        (_entries(xp, array, stride, rows, weight.shape) if entries else np.zeros(0)) / scale,
                    ),
                )

    def _cosine(self, found: Mapping[tuple[int, int], _Gradient]) -> float:
        if not found:
            return math.nan
        last, self._last = self._last, {key: gradient.entries for key, gradient in found.items()}
        if {key: v.shape for key, v in last.items()} != {key: v.shape for key, v in self._last.items()}:
            return math.nan
        one, other = (np.concatenate(list(each.values())) for each in (last, self._last))
        sizes = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
        return float(np.clip(one @ other / sizes, -1, 1)) if sizes and math.isfinite(sizes) else math.nan


def _trainable(part: Part) -> list[Any]:
    return [weight for weight in part.weights if weight.trainable]


def _stride(size: int, total: int) -> int:
    """Return the stride that gives a weight its share of the entries of a layer of ``total`` weights."""
    return math.ceil(size / max(1, math.ceil(size * min(1.0, SAMPLED_ENTRIES / max(total, 1))))) or 1


def _norm_and_entries(weights: list[Any]) -> tuple[float, Floats] | None:
    """Return the L2 norm of some weights and a copy of at most 4096 evenly strided entries; None without weights."""
    if not weights:
        return None
    total = sum(math.prod(weight.shape) for weight in weights)
    squares, pieces = 0.0, []
    for weight in weights:
        xp, array = home(read_variable(weight))
        squares += sum_of_squares(xp, array)
        pieces.append(_entries(xp, array, _stride(math.prod(weight.shape), total)))
    return math.sqrt(squares) if squares >= 0 else math.inf, np.concatenate(pieces)


def _entries(xp: Any, array: Any, stride: int, rows: NDArray[Any] | None = None, shape: tuple[int, ...] = ()) -> Floats:
    """Return a copy of evenly strided entries of an array, or of one of which only some rows are not zero.

    Args:
        xp: Module that handles the array.
        array: The array, or its rows that are not zero.
        stride: Distance of the entries.
        rows: Sorted numbers of those rows; None for a whole array.
        shape: Shape of the whole array, where rows are given.
    """
    if rows is None:
        return np.array(to_array(xp.reshape(array, (-1,))[::stride]), np.float64)
    row, place = np.divmod(np.arange(0, math.prod(shape), stride), max(1, math.prod(shape[1:])))
    found = np.searchsorted(rows, row)
    known = np.append(rows, -1)[found] == row
    entries = np.zeros(len(row))
    entries[known] = array.reshape(len(rows), -1)[found[known], place[known]]
    return entries


def _weight_values(old: tuple[float, Floats], new: tuple[float, Floats] | None) -> dict[str, float]:
    norm, entries = old
    values = {"weight_norm": measured(norm)}
    length = float(np.linalg.norm(entries))
    if new is not None and length:
        values["update_ratio"] = measured(float(np.linalg.norm(new[1] - entries)) / length)
    return values


def _gradient_values(gradients: Sequence[_Gradient]) -> dict[str, float]:
    size = sum(math.prod(gradient.weight.shape) for gradient in gradients)
    if not size:
        return {}
    return {
        "grad_norm": measured(np.sqrt(sum(gradient.squares for gradient in gradients))),
        "grad_zero_fraction": sum(gradient.zeros for gradient in gradients) / size,
    }


def _gradient(seen: Mapping[str, Any], key: str) -> tuple[Any, NDArray[Any] | None]:
    """Return a gradient or None; of a sparse one the rows touched, summed where they repeat, and their numbers."""
    if key in seen or f"{key}:values" not in seen:
        return seen.get(key), None
    values, indices = to_array(seen[f"{key}:values"]), to_array(seen[f"{key}:indices"])
    rows, places = np.unique(indices, return_inverse=True)
    summed = np.zeros((len(rows), *values.shape[1:]), values.dtype)
    np.add.at(summed, places.reshape(-1), values)
    return summed, rows


def _second_moment_ratios(found: Mapping[tuple[int, int], _Gradient], optimizers: Sequence[Any]) -> dict[int, float]:
    """Return, by row, the root of the mean of g² / max(v, ε²) of the weights that Adam or a relative of it moves.

    See `autotrainer.records.signals.SAMPLED_ENTRIES`. g is taken after the optimizer's own clipping, as in v.
    """
    ratios: dict[int, list[Floats]] = {}
    for optimizer in optimizers:
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        steps = _steps_of(optimizer)
        if not steps:
            continue
        moments = optimizer._velocity_hats if getattr(optimizer, "amsgrad", False) else optimizer._velocities
        places = optimizer._trainable_variables_indices
        moved = {key: g for key, g in found.items() if optimizer._var_key(g.weight) in places}
        total = math.sqrt(sum(g.squares for g in moved.values()))
        for (row, _), gradient in moved.items():
            xp, moment = home(read_variable(moments[optimizer._get_variable_index(gradient.weight)]))
            v = _entries(xp, moment, gradient.stride) / (1 - optimizer.beta_2**steps)
            g = _clipped(gradient, optimizer, total)
            ratios.setdefault(row, []).append(g**2 / np.maximum(v, optimizer.epsilon**2))
    return {row: measured(np.sqrt(np.mean(np.concatenate(each)))) for row, each in ratios.items()}


def _steps_of(optimizer: Any) -> int:
    """Return how many steps an optimizer has taken; 0 for one that has no second moment of single batches."""
    adam = isinstance(optimizer, keras.optimizers.Adam | keras.optimizers.Nadam)
    if not adam or not optimizer.built or optimizer.gradient_accumulation_steps:
        return 0
    return int(to_array(read_variable(optimizer._iterations)))


def _clipped(gradient: _Gradient, optimizer: Any, total: float) -> Floats:
    """Return the entries of a gradient as an optimizer clips them; ``total`` is the norm of all its gradients."""
    entries = gradient.entries
    if optimizer.clipnorm:
        entries = entries * min(1.0, optimizer.clipnorm / max(math.sqrt(gradient.squares), 1e-30))
    elif optimizer.global_clipnorm:
        entries = entries * min(1.0, optimizer.global_clipnorm / max(total, 1e-30))
    elif optimizer.clipvalue:
        entries = np.clip(entries, -optimizer.clipvalue, optimizer.clipvalue)
    return entries
