"""Work of a training in operations, for costs as multiples of the original training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.cases.case import Program

__all__ = ["relative_cost", "work"]


def relative_cost(fixed: Program, original: Program, input_shape: tuple[int, ...]) -> float:
    """Return the work of the fixed program ÷ that of the original; both train on the same number of rows."""
    return work(fixed, input_shape) / work(original, input_shape)


def work(program: Program, input_shape: tuple[int, ...]) -> float:
    """Return epochs × multiplications of one sample's forward pass.

    Args:
        program: The program.
        input_shape: Shape of one input, channels last.
    """
    shape, total = tuple(input_shape), 0.0
    for layer in program.layers:
        operations, shape = _layer(layer, shape)
        total += operations
    return program.epochs * total


def _layer(layer: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
    kind = str(layer["type"])
    if kind == "flatten":
        return 0, (math.prod(shape),)
    if kind.startswith("maxpool"):
        return math.prod(shape), (*(n // int(layer["size"]) for n in shape[:-1]), shape[-1])
    if kind == "dense":
        return math.prod(shape) * layer["units"], (*shape[:-1], layer["units"])
    if kind.startswith("conv"):
        taps = layer["kernel"] ** (len(shape) - 1) * shape[-1]
        return math.prod(shape[:-1]) * taps * layer["filters"], (*shape[:-1], layer["filters"])
    if kind == "residual":
        total, inner = 0.0, shape
        for each in layer["layers"]:
            operations, inner = _layer(each, inner)
            total += operations
        return total, shape
    if kind == "attention":  # four square kernels; scores and their sums of values
        time, units = shape
        return 4 * time * units**2 + 2 * time**2 * units, shape
    if kind == "squeeze":
        return 0, ()
    if kind == "embedding":
        return 0, (*shape, layer["units"])
    if kind == "mean":
        return math.prod(shape), shape[1:]
    if kind in ("gru", "lstm"):
        ways, units = (2 if layer.get("bidirectional") else 1), int(layer["units"])
        gates = (4 if kind == "lstm" else 3) * ways * shape[0] * units * (shape[-1] + units)
        return gates, ((shape[0], ways * units) if layer.get("return_sequences") else (ways * units,))
    return math.prod(shape), shape
