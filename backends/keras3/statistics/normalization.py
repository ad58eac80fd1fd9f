"""Statistics of normalization layers: the size of their output before scale and bias, and that of scale and bias."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.runtime.tensors import array_module, read_variable, to_array
from autotrainer.records.measurement import normalizes_features
from autotrainer.records.signals import NORM_GROUPS, Floats

__all__ = ["NormVectors", "norm_vectors", "normalization_values"]

NormVectors = tuple[Floats | None, Floats | None]
"""Scale and bias of a normalization layer."""

_SCALES, _BIASES = ("gamma", "scale", "weight", "g"), ("beta", "bias", "b")
"""Names of scale and bias, in layers of Keras and in custom ones."""

_INEXACT = 0.03
"""Rounding error of the values before scale and bias, relative to 1, from which they are not measured."""

_PRECISION = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
_QUARTILE = 0.75


def norm_vectors(watched: WatchedLayer) -> NormVectors:
    """Return copies of the scale and bias of a normalization layer; None for those it lacks."""
    return _vector(watched.layer, _SCALES), _vector(watched.layer, _BIASES)


def normalization_values(watched: WatchedLayer, output: Any, vectors: NormVectors) -> dict[str, float]:
    """Return the `NORM_COLUMNS` of a layer, by name, as far as they can be measured.

    Args:
        watched: The layer.
        output: Its output.
        vectors: What `norm_vectors` returned when it ran.
    """
    scale, bias = vectors
    sizes = {"scale_rms": _rms(scale), "bias_rms": _rms(bias)}
    best: dict[str, float] = {}
    for factor, squares in _arrangements(watched.layer, output, scale, bias):
        numbers = _of_groups(squares) if squares is not None else {}
        if numbers and (not best or _misfit(numbers) < _misfit(best)):
            best = numbers
            sizes["scale_rms"] = _rms(factor)
    if best and not _uses_this_batch(watched.layer, output):
        best["normalized_peak"] = math.nan
    return {name: value for name, value in {**sizes, **best}.items() if math.isfinite(value)}


def _arrangements(
    layer: Any, output: Any, scale: Floats | None, bias: Floats | None
) -> Iterator[tuple[Floats | None, Floats | None]]:
    """Yield scales that the layer may apply, each with the mean square of groups, or None if that is inexact."""
    shape = tuple(output.shape)
    names = {base.__name__ for base in type(layer).__mro__ if base.__module__.startswith("keras.")}
    axes = _axes(layer, len(shape))
    precision = _PRECISION.get(str(getattr(output, "dtype", "")).rsplit(".", 1)[-1], 2.0**-23)
    divisor: Any = 1.0 if scale is None else scale
    if bias is not None and not precision * _rms(bias / divisor) <= _INEXACT:
        return
    if "BatchNormalization" in names:
        if len(axes) == 1 and len(shape) > 1:
            yield scale, _by_channel(output, axes[0], divisor, bias)
    elif "GroupNormalization" in names:
        if len(axes) == 1 and len(shape) > 1:
            count = layer.groups if layer.groups > 0 else shape[axes[0]]
            values = np.moveaxis(to_array(output[: max(1, NORM_GROUPS // count)]), axes[0], -1)
            before = _before_scale(values, divisor, bias).reshape(len(values), -1, count, shape[axes[0]] // count)
            yield scale, np.square(before).mean(axis=(1, 3)).reshape(-1)
    elif names & {"LayerNormalization", "RMSNormalization"}:
        size = math.prod(shape[axis] for axis in axes)
        if axes == tuple(range(len(shape) - len(axes), len(shape))) and size:
            flat = np.reshape(divisor, -1), None if bias is None else bias.reshape(-1)
            yield scale, np.square(_before_scale(_rows(output, size), *flat)).mean(axis=1)
    elif normalizes_features(type(layer).__name__) and scale is not None and shape[-1] == scale.size:
        for factor in (scale, 1 + scale):
            yield factor, np.square(_before_scale(_rows(output, scale.size), factor, bias)).mean(axis=1)


def _uses_this_batch(layer: Any, output: Any) -> bool:
    """Return whether a layer takes its statistics from this batch alone, all of it: sequences may have a mask."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return True
    return bool(layer.trainable and not getattr(layer, "synchronized", False) and len(output.shape) != 3)


def _axes(layer: Any, rank: int) -> tuple[int, ...]:
    axis = getattr(layer, "axis", -1)
    axes = tuple(axis) if isinstance(axis, list | tuple) else (axis,)
    return tuple(sorted(int(each) % rank for each in axes if isinstance(each, int) and -rank <= each < rank))


def _by_channel(output: Any, axis: int, scale: Any, bias: Floats | None) -> Floats:
    """Return the mean square of each channel before scale and bias, over samples and positions."""
    xp, values = array_module(output)
    others = tuple(each for each in range(len(values.shape)) if each != axis)
    means, variances = (np.asarray(to_array(f(values, axis=others)), np.float64) for f in (xp.mean, xp.var))
    squares: Floats = variances + np.square(means - (0.0 if bias is None else bias))
    return squares / np.square(np.asarray(scale, np.float64))


def _rows(output: Any, size: int) -> NDArray[Any]:
    """Return evenly strided groups of the last values of an output, on the host."""
    xp, values = array_module(output)
    rows = xp.reshape(values, (-1, size))
    return to_array(rows[:: math.ceil(rows.shape[0] / NORM_GROUPS)])


def _before_scale(values: NDArray[Any], scale: Any, bias: Floats | None) -> Floats:
    """Return values without scale and bias, whose axis is the last."""
    before = values.astype(np.float64)
    return (before if bias is None else before - bias) / np.asarray(scale, np.float64)


def _of_groups(squares: Floats) -> dict[str, float]:
    sizes = np.sort(np.sqrt(squares))
    if not len(sizes) or not np.isfinite(sizes).all():
        return {}
    return {"normalized_rms": float(sizes[int(_QUARTILE * (len(sizes) - 1))]), "normalized_peak": float(sizes[-1])}


def _misfit(numbers: dict[str, float]) -> float:
    """Return how far groups are from a root mean square of 1."""
    rms, peak = numbers["normalized_rms"], numbers["normalized_peak"]
    return abs(math.log(rms)) + math.log(peak / rms) if rms > 0 else math.inf


def _rms(vector: Floats | None) -> float:
    return math.nan if vector is None else float(np.sqrt(np.square(vector).mean()))


def _vector(layer: Any, names: tuple[str, ...]) -> Floats | None:
    values = (getattr(layer, name, None) for name in names)
    variable = next((value for value in values if hasattr(value, "path") and hasattr(value, "shape")), None)
    if variable is None or not math.prod(variable.shape):
        return None
    return np.array(to_array(read_variable(variable)), np.float64)
