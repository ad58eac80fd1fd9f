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
from autotrainer.monitoring.weight_patterns import is_freshly_initialized, recurrent_form, weight_form

__all__ = ["with_weight_forms"]

_MOST = 1 << 20
"""Entries of a kernel that is read to decide whether it was freshly drawn, at most."""


def with_weight_forms(layers: Sequence[WatchedLayer]) -> tuple[WatchedLayer, ...]:
    """Return the layers with the form of their current weights (`autotrainer.records.signals.LayerInfo.start`).

    Reads two units and two inputs of each layer, and the whole kernel only if these are equal. Grouped convolutions
    are skipped: their units see different inputs.
    """
    return tuple(replace(watched, info=replace(watched.info, start=_form(watched.layer))) for watched in layers)


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
