"""Parts of attention layers that joint weights hold, and the sizes of frozen weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autotrainer.backends.pytorch.model.describe import direct_parameters
from autotrainer.backends.pytorch.runtime.tensors import has_values
from autotrainer.backends.pytorch.statistics.stats import joined, norms
from autotrainer.records.measurement import fused_axis
from autotrainer.records.signals import LAYER_COLUMNS, PARTS, Floats

__all__ = ["PART_COLUMNS", "AttentionPart", "FrozenWeights", "attention_parts"]

PART_COLUMNS = tuple(LAYER_COLUMNS.index(f"{part}_rms") for part in PARTS)
"""Columns of the layer table with the sizes of the parts."""

_WEIGHT_RMS = LAYER_COLUMNS.index("weight_rms")
_FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_SEPARATE = {"q_proj_weight": 0, "k_proj_weight": 1, "v_proj_weight": 2}
"""Parameters of `nn.MultiheadAttention` for keys and values of other sizes, by part."""


@dataclass(frozen=True, slots=True)
class AttentionPart:
    """A part of an attention layer's weights.

    Attributes:
        part: Its index in `PARTS`.
        axis: Axis along which the parameter joins three of them; None if it is this part alone.
    """

    part: int
    axis: int | None = None

    def of(self, values: Tensor) -> Tensor:
        """Return its entries of the parameter or of a gradient."""
        return values if self.axis is None else values.chunk(3, self.axis)[self.part]


def attention_parts(names: Sequence[str], modules: Sequence[nn.Module]) -> dict[nn.Parameter, list[AttentionPart]]:
    """Return the parts of attention layers that parameters hold, for layers whose weights hold several."""
    parts: dict[nn.Parameter, list[AttentionPart]] = {}
    for path, module in zip(names, modules, strict=True):
        for name, parameter in module._parameters.items():
            if parameter is None or not has_values(parameter) or parameter.ndim != 2:
                continue
            if isinstance(module, nn.MultiheadAttention):
                if name == "in_proj_weight":
                    parts[parameter] = [AttentionPart(part, 0) for part in range(3)]
                elif name in _SEPARATE:
                    parts[parameter] = [AttentionPart(_SEPARATE[name])]
            elif name == "weight" and (axis := fused_axis(path, parameter.shape)) is not None:
                parts[parameter] = [AttentionPart(part, axis) for part in range(3)]
    return parts


class FrozenWeights:
    """Sizes of frozen matrices, which are read once, as they do not change.

    Args:
        modules: The layers, in the order of the rows.
        parts: What `attention_parts` returned.
    """

    def __init__(self, modules: Sequence[nn.Module], parts: Mapping[nn.Parameter, Sequence[AttentionPart]]) -> None:
        self._modules = modules
        self._parts = parts
        self._values: list[tuple[int, int, float]] | None = None

    def fill(self, table: Floats) -> None:
        """Write the sizes into the layer table, where no trainable matrix has one."""
        if self._values is None:
            self._values = self._read()
        for row, column, value in self._values:
            if np.isnan(table[row, column]):
                table[row, column] = value

    def _read(self) -> list[tuple[int, int, float]]:
        places, matrices = list[tuple[int, int]](), list[Tensor]()
        for row, module in enumerate(self._modules):
            for parameter in direct_parameters(module):
                if parameter.requires_grad or not has_values(parameter) or parameter.ndim < 2 or not parameter.numel():
                    continue
                if type(parameter) is not nn.Parameter or parameter.dtype not in _FLOATING:
                    continue  # quantized or distributed
                if parameter.layout is not torch.strided:
                    continue
                for part in self._parts.get(parameter, ()):
                    places.append((row, PART_COLUMNS[part.part]))
                    matrices.append(part.of(parameter))
                places.append((row, _WEIGHT_RMS))
                matrices.append(parameter)
        if not matrices:
            return []
        values = joined([norm.reshape(1) for norm in norms(matrices)]).cpu().numpy().astype(np.float64)
        sizes = np.sqrt([matrix.numel() for matrix in matrices])
        return [(*place, float(value)) for place, value in zip(places, values / sizes, strict=True)]
