"""Detecting initial weights of a special form: all zero, constant, equal for all units or for all inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.runtime.tensors import read_variable, to_array
from autotrainer.monitoring.weight_patterns import (
    ORIGIN_SIZE,
    is_freshly_initialized,
    matrix_origin,
    recurrent_form,
    vector_origin,
    weight_form,
)

__all__ = ["with_weight_forms"]

_MATRICES = 16
"""Matrices that are examined to decide whether they were trained, about: evenly strided ones, and the last two."""

_MOST = 1 << 20
"""Entries of a kernel that is read to decide whether it was freshly drawn, at most."""


def with_weight_forms(layers: Sequence[WatchedLayer]) -> tuple[WatchedLayer, ...]:
    """Return the layers with form and origin of their current weights (`LayerInfo.start` and `LayerInfo.origin`).

    Reads two units and two inputs of each layer, and the whole kernel only if these are equal. Grouped convolutions
    are skipped: their units see different inputs.
    """
    infos = [
        replace(watched.info, start=_form(watched.layer), origin=origin)
        for watched, origin in zip(layers, _origins(layers), strict=True)
    ]
    infos = [
        replace(info, start="") if info.start == "drawn" and _is_copy(watched.layer, layers) else info
        for watched, info in zip(layers, infos, strict=True)
    ]
    return tuple(replace(watched, info=info) for watched, info in zip(layers, infos, strict=True))


def _is_copy(frozen: Any, layers: Sequence[WatchedLayer]) -> bool:
    """Return whether a layer has the kernel of one that is trained, whose moving average it may become."""
    twins = (getattr(watched.layer, "kernel", None) for watched in layers if watched.layer.trainable)
    twins = (kernel for kernel in twins if kernel is not None and kernel.shape == frozen.kernel.shape)
    value = to_array(read_variable(frozen.kernel))
    same = (kernel for kernel in twins if np.array_equal(to_array(read_variable(kernel)[:1]), value[:1]))
    return any(np.array_equal(to_array(read_variable(kernel)), value) for kernel in same)


def _origins(layers: Sequence[WatchedLayer]) -> list[str]:
    """Return the origin of the weights of each layer, as in `autotrainer.records.signals.LayerInfo.origin`."""
    origins = [""] * len(layers)
    matrices = {}
    for row, watched in enumerate(layers):
        weights = [weight for weight in watched.weights if weight.shape and 0 not in weight.shape]
        if watched.info.kind == "norm" and weights and all(len(weight.shape) == 1 for weight in weights):
            trained = any(vector_origin(to_array(read_variable(weight))) == "trained" for weight in weights)
            origins[row] = "trained" if trained else "drawn"
        elif watched.info.kind != "recurrent" and any(len(weight.shape) > 1 for weight in weights):
            matrices[row] = max(weights, key=lambda weight: math.prod(weight.shape) if len(weight.shape) > 1 else 0)
    rows = list(matrices)
    for row in {*rows[:: math.ceil(len(rows) / _MATRICES) or 1], *rows[-2:]}:
        value = read_variable(matrices[row])
        matrix = keras.ops.reshape(value, (value.shape[0], -1))
        strides = [math.ceil(size / ORIGIN_SIZE) for size in matrix.shape]
        origins[row] = matrix_origin(to_array(matrix[:: strides[0], :: strides[1]]).astype(np.float64))
    return origins


def _form(layer: Any) -> str:
    cell = getattr(layer, "cell", None)
    recurrent = [getattr(cell, name, None) for name in ("kernel", "recurrent_kernel")]
    if all(kernel is not None for kernel in recurrent):
        return recurrent_form([to_array(read_variable(kernel)) for kernel in recurrent])
    axes = _axes(layer)
    kernel = getattr(layer, "kernel", None) if axes is not None else None
    if axes is None or kernel is None or 0 in kernel.shape:
        return ""
    unit_axis, input_axis = axes
    value = read_variable(kernel) if isinstance(kernel, keras.Variable) else kernel
    several = [unit_axis, *([input_axis] if kernel.shape[input_axis] > 1 else [])]
    if not any(_equal_ends(value, axis) for axis in several):
        return "drawn" if not layer.trainable and _is_newly_drawn(kernel, axes) else ""
    matrix = np.moveaxis(to_array(value), axes, (0, 1))
    return weight_form(matrix.reshape(*matrix.shape[:2], -1))


def _is_newly_drawn(kernel: Any, axes: tuple[int, int]) -> bool:
    """Return whether a kernel looks freshly drawn by a common initializer."""
    size = math.prod(kernel.shape)
    if size > _MOST:
        return False
    units, inputs = (kernel.shape[axis] for axis in axes)
    positions = size // (units * inputs)
    outputs, inputs = units * positions, inputs * positions
    bounds = [math.sqrt(square) for square in (6 / (inputs + outputs), 6 / inputs, 3 / inputs)]
    deviations = [math.sqrt(square) for square in (2 / (inputs + outputs), 2 / inputs, 1 / inputs)] + [0.05]
    return is_freshly_initialized(to_array(kernel).ravel(), bounds, deviations)


def _axes(layer: Any) -> tuple[int, int] | None:
    """Return the axes of units and inputs of a layer's kernel, or None if the kernel has no such axes."""
    names = {base.__name__ for base in type(layer).__mro__ if base.__module__.startswith("keras.")}
    if "Dense" in names or ("BaseConv" in names and layer.groups == 1):
        return -1, -2
    return (-2, -1) if "BaseConvTranspose" in names else None


def _equal_ends(value: Any, axis: int) -> bool:
    """Return whether the first and the last slice along an axis are equal."""
    first, last = (to_array(value[..., i] if axis == -1 else value[..., i, :]) for i in (0, -1))
    return bool((first == last).all())
