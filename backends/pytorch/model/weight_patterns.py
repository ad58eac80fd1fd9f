"""Tells initial weights of a special form: all zero, one constant, the same for all units or inputs, just drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autotrainer.monitoring.weight_patterns import is_freshly_initialized, recurrent_form, weight_form

__all__ = ["is_newly_drawn", "weight_forms"]

_MOST = 65536
"""Entries that are looked at to see whether weights were just drawn."""


def weight_forms(modules: Sequence[nn.Module]) -> list[str]:
    """Return the form of each module's weights, as `autotrainer.records.signals.LayerInfo.start` has it.

    Reads two units and two inputs of each layer, and the whole of those layers alone where these are equal; waits for
    the device once. Grouped convolutions have none: their units see different inputs.
    """
    forms = [_recurrent(module) for module in modules]
    found = [(place, matrix) for place, module in enumerate(modules) if (matrix := _matrix(module)) is not None]
    if not found:
        return forms
    with torch.no_grad():
        hints = torch.stack([_equal_ends(matrix).cpu() for _, matrix in found]).tolist()
        for (place, matrix), equal in zip(found, hints, strict=True):
            forms[place] = weight_form(_on_host(matrix)) if equal else ""
    return forms


def is_newly_drawn(module: nn.Module) -> bool:
    """Say whether the weights of a layer look as a usual initializer has just drawn them; waits for the device."""
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
    """Return at most 65536 evenly strided entries on the host; none where there is nothing to be read."""
    if weight.device.type == "meta" or not weight.numel() or not weight.is_floating_point():
        return np.zeros(0)
    flat = weight.detach().reshape(-1)
    return _on_host(flat[:: math.ceil(flat.numel() / _MOST)])


def _matrix(module: nn.Module) -> Tensor | None:
    """Return the weights of a layer as a view of shape (units, inputs, places), or None."""
    if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        return None
    weight = module._parameters.get("weight")
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


def _equal_ends(matrix: Tensor) -> Tensor:
    """Say whether the first and the last unit, or else the first and the last of several inputs, have equal weights."""
    units = (matrix[0] == matrix[-1]).all()
    return units if matrix.shape[1] == 1 else units | (matrix[:, 0] == matrix[:, -1]).all()


def _on_host(values: Tensor) -> NDArray[Any]:
    return values.detach().double().cpu().numpy()
