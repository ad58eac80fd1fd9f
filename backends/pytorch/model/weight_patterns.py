"""Recognizes patterns of initial weights: all zero, one constant, equal for all units or inputs, freshly drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autotrainer.backends.pytorch.model.describe import own_parameter
from autotrainer.backends.pytorch.runtime.torch_private import Conv
from autotrainer.monitoring.weight_patterns import (
    ORIGIN_SIZE,
    is_freshly_initialized,
    matrix_origin,
    recurrent_form,
    vector_origin,
    weight_form,
)

__all__ = ["is_newly_drawn", "weight_forms", "weight_origins", "weight_origins_of"]

_MOST = 65536
"""Entries of a weight that are examined to decide whether it was freshly drawn, at most."""

_MATRICES = 16
"""Matrices that are examined to decide whether they were trained, about: evenly strided ones, and the last two."""
_VECTORS = 128
"""Normalizations whose scale and bias are read, about."""


def weight_origins(modules: Sequence[nn.Module]) -> list[str]:
    """Return the origin of each module's weights, as in `autotrainer.records.signals.LayerInfo.origin`.

    Reads parts of them; synchronizes with the device for each.
    """
    vectors = {row: vector for row, module in enumerate(modules) if (vector := _scale_and_bias(module))}
    matrices = {row: matrix for row, module in enumerate(modules) if (matrix := _largest(module)) is not None}
    rows = list(matrices)
    origins = [""] * len(modules)
    for row in _evenly(list(vectors), _VECTORS):
        trained = any(vector_origin(_on_host(part)) == "trained" for part in vectors[row])
        origins[row] = "trained" if trained else "drawn"
    for row in _evenly(rows, _MATRICES):
        origins[row] = _matrix_origin(matrices[row])
    return origins


def weight_origins_of(parameters: Sequence[Tensor]) -> list[str]:
    """Return the origins, as of `weight_origins`, of some of the matrices among parameters."""
    matrices = [p.detach().flatten(1) for p in parameters if p.ndim > 1 and _is_readable(p)]
    return [_matrix_origin(matrices[row]) for row in sorted(_evenly(list(range(len(matrices))), _MATRICES))]


def _matrix_origin(matrix: Tensor) -> str:
    strides = [math.ceil(size / ORIGIN_SIZE) for size in matrix.shape]
    return matrix_origin(_on_host(matrix[:: strides[0], :: strides[1]]))


def _evenly(rows: Sequence[int], most: int) -> set[int]:
    """Return about so many evenly strided rows, and the last two."""
    return {*rows[:: math.ceil(len(rows) / most) or 1], *rows[-2:]}


def _scale_and_bias(module: nn.Module) -> list[Tensor]:
    """Return scale and bias of a normalization; none for other modules."""
    parameters = [p for p in module._parameters.values() if p is not None and _is_readable(p)]
    is_norm = "norm" in type(module).__name__.lower() and all(p.ndim == 1 and p.numel() > 1 for p in parameters)
    return [p.detach() for p in parameters] if is_norm else []


def _largest(module: nn.Module) -> Tensor | None:
    """Return the largest weight of a module without recurrence, as a matrix of shape (rows, columns), or None."""
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return None
    weights = [p for p in module._parameters.values() if p is not None and p.ndim > 1 and _is_readable(p)]
    largest = max(weights, key=Tensor.numel, default=None)
    return None if largest is None else largest.detach().flatten(1)


def _is_readable(parameter: Tensor) -> bool:
    plain = type(parameter) in (nn.Parameter, Tensor)  # neither lazy, distributed nor quantized
    dense = plain and parameter.device.type != "meta" and parameter.layout is torch.strided
    return dense and parameter.is_floating_point() and parameter.numel() > 0


def weight_forms(modules: Sequence[nn.Module]) -> list[str]:
    """Return the pattern of each module's weights, as in `autotrainer.records.signals.LayerInfo.start`.

    Compares two units and two inputs of each layer, and reads a whole layer only if these are equal; synchronizes with
    the device once. Grouped convolutions have no pattern: their units have different inputs.
    """
    forms = [_recurrent(module) for module in modules]
    matrices = [(index, matrix) for index, module in enumerate(modules) if (matrix := _matrix(module)) is not None]
    if not matrices:
        return forms
    with torch.no_grad():
        parts = [_corners(matrix) for _, matrix in matrices]
        parts = parts if len({part.device for part in parts}) == 1 else [part.cpu() for part in parts]
        corners = torch.cat(parts).double().cpu().numpy().reshape(-1, 4)
        equal = (corners[:, 1:3] == corners[:, :1]).any(axis=1)  # necessary for equal units, and for equal inputs
        for (index, matrix), candidate in zip(matrices, equal, strict=True):
            forms[index] = weight_form(_on_host(matrix)) if candidate and bool(_equal_ends(matrix)) else ""
    return forms


def is_newly_drawn(module: nn.Module) -> bool:
    """Return whether a layer's weights look freshly drawn by a common initializer; synchronizes with the device."""
    weights: list[Tensor]
    bounds: list[float]
    deviations: list[float]
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        weights = [p for p in module._parameters.values() if p is not None and p.ndim == 2]
        bounds, deviations = [1 / math.sqrt(module.hidden_size)], []
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        weights, bounds, deviations = [module.weight], [], [1.0]
    else:
        matrix = _matrix(module)
        if matrix is None:
            return False
        outputs, inputs = matrix.shape[0] * matrix.shape[2], matrix.shape[1] * matrix.shape[2]
        weights, both = [matrix], inputs + outputs
        bounds = [math.sqrt(square) for square in (1 / inputs, 3 / inputs, 6 / inputs, 6 / both)]
        deviations = [math.sqrt(square) for square in (1 / inputs, 2 / inputs, 2 / both)] + [0.02]
    return bool(weights) and all(is_freshly_initialized(_some(weight), bounds, deviations) for weight in weights)


def _some(weight: Tensor) -> NDArray[Any]:
    """Return at most `_MOST` evenly strided entries on the host; none if there are no values to read."""
    if weight.device.type == "meta" or not weight.numel() or not weight.is_floating_point():
        return np.zeros(0)
    flat = weight.detach().reshape(-1)
    return _on_host(flat[:: math.ceil(flat.numel() / _MOST)])


def _matrix(module: nn.Module) -> Tensor | None:
    """Return the weights of a layer as a view of shape (units, inputs, positions), or None."""
    if not isinstance(module, nn.Linear | Conv):
        return None
    weight = own_parameter(module, "weight")
    if type(weight) is not nn.Parameter or weight.device.type == "meta" or weight.layout is not torch.strided:
        return None
    if getattr(module, "groups", 1) != 1 or weight.numel() == 0 or not weight.is_floating_point():
        return None
    matrix = weight.detach()
    if getattr(module, "transposed", False):
        matrix = matrix.transpose(0, 1)
    return matrix.reshape(*matrix.shape[:2], -1)


def _recurrent(module: nn.Module) -> str:
    if not isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return ""
    with torch.no_grad():
        matrices = [p for p in module._parameters.values() if p is not None and p.ndim == 2]
        if not matrices or any(p.device.type == "meta" or not p.numel() for p in matrices):
            return ""
        if not all(bool(p[0, 0] == p[-1, -1]) for p in matrices):
            return ""
        return recurrent_form([_on_host(p) for p in matrices])


def _corners(matrix: Tensor) -> Tensor:
    """Return the first and the last weight of the first unit, then of the last unit: a view of shape (2, 2)."""
    (units, inputs), (unit, each_input) = matrix.shape[:2], matrix.stride()[:2]
    return matrix.as_strided((2, 2), ((units - 1) * unit, (inputs - 1) * each_input))


def _equal_ends(matrix: Tensor) -> Tensor:
    """Return whether the first and last unit, or the first and last of several inputs, have equal weights."""
    units = (matrix[0] == matrix[-1]).all()
    return units if matrix.shape[1] == 1 else units | (matrix[:, 0] == matrix[:, -1]).all()


def _on_host(values: Tensor) -> NDArray[Any]:
    return values.detach().double().cpu().numpy()
