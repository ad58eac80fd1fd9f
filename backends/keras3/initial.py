"""Tells initial weights of a special form: all zero, one constant, the same for all units or for all inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.parts import Part
from autotrainer.backends.keras3.stats import read_variable, to_array

__all__ = ["with_weight_forms"]


def with_weight_forms(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return the layers with the form of their present weights (`autotrainer.signals.LayerInfo.start`).

    Reads two units and two inputs of each layer, and the whole of those layers alone where these are equal. Grouped
    convolutions have none: their units see different inputs.
    """
    return tuple(replace(part, info=replace(part.info, start=_form(part.layer))) for part in parts)


def _form(layer: Any) -> str:
    cell = getattr(layer, "cell", None)
    recurrent = [getattr(cell, name, None) for name in ("kernel", "recurrent_kernel")]
    if all(kernel is not None for kernel in recurrent):
        matrices = [to_array(read_variable(kernel)) for kernel in recurrent]
        alike = all(bool((matrix == matrix.flat[0]).all()) for matrix in matrices)
        return "constant" if alike and any(matrix.flat[0] for matrix in matrices) else ""
    axes = _axes(layer)
    kernel = getattr(layer, "kernel", None) if axes is not None else None
    if axes is None or kernel is None or 0 in kernel.shape:
        return ""
    unit_axis, input_axis = axes
    value = read_variable(kernel) if isinstance(kernel, keras.Variable) else kernel
    if not any(_equal(_ends(value, axis), axis) for axis in axes):
        return ""
    matrix = to_array(value)
    units = matrix.shape[unit_axis] > 1 and _equal(matrix, unit_axis)
    inputs = _equal(matrix, input_axis)
    if inputs and not matrix.any():
        return "zero"
    if units and inputs:
        return "constant"
    return "equal_units" if units else ("equal_inputs" if inputs else "")


def _axes(layer: Any) -> tuple[int, int] | None:
    """Return the axes of units and inputs of a layer's kernel, or None for a layer whose kernel is no such matrix."""
    names = {base.__name__ for base in type(layer).__mro__ if base.__module__.startswith("keras.")}
    if "Dense" in names or ("BaseConv" in names and layer.groups == 1):
        return -1, -2
    return (-2, -1) if "BaseConvTranspose" in names else None


def _ends(value: Any, axis: int) -> NDArray[Any]:
    """Return the first and the last slice along an axis."""
    slices = [value[..., i] if axis == -1 else value[..., i, :] for i in (0, -1)]
    return np.stack([to_array(part) for part in slices], axis=axis)


def _equal(values: NDArray[Any], axis: int) -> bool:
    """Say whether all slices along an axis are the same."""
    return bool((values == np.take(values, [0], axis=axis)).all())
