"""Statistics of an optimizer's step: the gradients before it, and how far it moved the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from autotrainer.backends.pytorch.model.describe import direct_parameters
from autotrainer.backends.pytorch.statistics.gradients import GradientDirection, GradientSample
from autotrainer.backends.pytorch.statistics.stats import changes, joined, nonzero_counts, norms, sampled_entries
from autotrainer.records.measurement import fused_axis
from autotrainer.records.signals import LAYER_COLUMNS, PARTS, SAMPLED_ENTRIES, Floats

__all__ = ["AttentionPart", "FrozenWeights", "OptimizerStepStats", "attention_parts", "owners"]

_GRAD_NORM, _ZEROS, _WEIGHT_NORM, _UPDATE, _MOMENT = (
    LAYER_COLUMNS.index(name)
    for name in ("grad_norm", "grad_zero_fraction", "weight_norm", "update_ratio", "second_moment_ratio")
)

_WEIGHT_RMS, _GRADIENT_RMS = (LAYER_COLUMNS.index(name) for name in ("weight_rms", "weight_grad_rms"))
_PART_RMS = tuple(LAYER_COLUMNS.index(f"{part}_rms") for part in PARTS)
_PART_GRADIENTS = tuple(LAYER_COLUMNS.index(f"{part}_grad_rms") for part in PARTS)
_BIAS_RMS = LAYER_COLUMNS.index("bias_rms")
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
            if parameter is None or not _has_values(parameter) or parameter.ndim != 2:
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
                if parameter.requires_grad or not _has_values(parameter) or parameter.ndim < 2 or not parameter.numel():
                    continue
                if type(parameter) is not nn.Parameter or parameter.dtype not in _FLOATING:
                    continue  # quantized or distributed
                if parameter.layout is not torch.strided:
                    continue
                for part in self._parts.get(parameter, ()):
                    places.append((row, _PART_RMS[part.part]))
                    matrices.append(part.of(parameter))
                places.append((row, _WEIGHT_RMS))
                matrices.append(parameter)
        if not matrices:
            return []
        values = joined([norm.reshape(1) for norm in norms(matrices)]).cpu().numpy().astype(np.float64)
        sizes = np.sqrt([matrix.numel() for matrix in matrices])
        return [(*place, float(value)) for place, value in zip(places, values / sizes, strict=True)]


def owners(modules: Sequence[nn.Module]) -> dict[nn.Parameter, int]:
    """Return the row of each parameter: that of the first module that has it, if several share it."""
    rows: dict[nn.Parameter, int] = {}
    for row, module in enumerate(modules):
        for parameter in direct_parameters(module):
            rows.setdefault(parameter, row)
    return rows


class OptimizerStepStats:
    """Statistics of one step of an optimizer. All results stay on the device until `fill`.

    Args:
        parameters: Trainable parameters, each with the row of its layer.
        needs: Columns to measure; ``second_moment_ratio`` and ``gradient_cosine`` are skipped unless needed.
        parts: What `attention_parts` returned.
    """

    def __init__(
        self,
        parameters: Sequence[tuple[nn.Parameter, int]],
        needs: frozenset[str],
        parts: Mapping[nn.Parameter, Sequence[AttentionPart]] | None = None,
    ) -> None:
        trainable = [(parameter, row) for parameter, row in parameters if _is_trainable(parameter)]
        self._parameters = [p for p, _ in trainable]
        self._rows = np.array([row for _, row in trainable], np.int64)
        sizes = np.array([p.numel() for p in self._parameters], np.int64)
        self._sizes = sizes
        layer_sizes = np.bincount(self._rows, sizes) if len(trainable) else np.zeros(0)
        shares = np.ceil(sizes * (SAMPLED_ENTRIES / np.maximum(layer_sizes[self._rows], 1))).astype(int)
        self._entries = np.minimum(sizes, shares).tolist()
        self._with_gradient: list[int] = []
        self._gradients: list[Tensor] = []
        self._scale: Tensor | None = None
        self._overflow: Tensor | None = None
        self._is_matrix = np.array([p.ndim > 1 for p in self._parameters], bool)
        self._parts = [(i, part) for i, p in enumerate(self._parameters) for part in (parts or {}).get(p, ())]
        self._weights = norms(self._parameters)
        self._part_weights = norms([part.of(self._parameters[i]) for i, part in self._parts])
        self._part_gradients: list[Tensor] = []
        self._graded_parts: list[tuple[int, AttentionPart]] = []
        self._before = sampled_entries(self._parameters, self._entries)
        self._before_norms = norms(self._before)
        self._changes: list[Tensor] = []
        self._gradients_read = False
        self._needs = needs & {"second_moment_ratio", "gradient_cosine"}
        self._gradient_sample: GradientSample | None = None
        self._moment_ratios: tuple[list[int], list[int], list[Tensor]] = [], [], []
        self.direction: GradientDirection | None = None
        """Direction of the gradients, if needed."""

    @property
    def key(self) -> int:
        """Identifies the optimizer: equal for all of its steps."""
        return id(self._parameters[0]) if self._parameters else 0

    def read_gradients(self, optimizer: Optimizer) -> None:
        """Read the current gradients.

        A `GradScaler` leaves it to a fused optimizer to remove the scale from them, and to skip a step whose scaled
        gradients overflow: both are done here, too.
        """
        self._gradients_read = True
        self._with_gradient = [i for i, p in enumerate(self._parameters) if p.grad is not None]
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        self._gradients = [*norms(gradients), *nonzero_counts(gradients)]
        graded = [(p.grad, i, part) for i, part in self._parts if (p := self._parameters[i]).grad is not None]
        self._graded_parts = [(i, part) for _, i, part in graded]
        self._part_gradients = norms([part.of(gradient) for gradient, _, part in graded])
        scale = getattr(optimizer, "grad_scale", None)
        self._scale = scale if isinstance(scale, Tensor) else None
        overflow = getattr(optimizer, "found_inf", None)
        self._overflow = overflow if isinstance(overflow, Tensor) else None
        if self._needs and gradients:
            self._gradient_sample = GradientSample(self._parameters, self._entries, self._scale)

    def compare(self, optimizer: Optimizer) -> None:
        """Read how far the weights have moved; the gradients, too, if a closure computed them within the step."""
        if not self._gradients_read:
            self.read_gradients(optimizer)
        self._changes = changes(self._before, sampled_entries(self._parameters, self._entries))
        self._before = []
        sample, self._gradient_sample = self._gradient_sample, None
        if sample is not None and "gradient_cosine" in self._needs:
            self.direction = sample.direction()
        if sample is not None and "second_moment_ratio" in self._needs:
            self._moment_ratios = sample.moment_ratios(optimizer)

    def scalars(self) -> list[Tensor]:
        """Return all results as scalars, for one transfer to the host."""
        scaling = [value for value in (self._scale, self._overflow) if value is not None]
        scale_values = [value.detach().reshape(()).float() for value in scaling]
        moments = self._moment_ratios[2]
        parts = [*self._part_weights, *self._part_gradients]
        return [*self._weights, *self._before_norms, *self._changes, *self._gradients, *moments, *parts, *scale_values]

    def fill(self, table: Floats, values: Floats) -> None:
        """Write the results into the layer table.

        Args:
            table: Shape (rows, columns), one row for each of the layers in order of definition; changed.
            values: What `scalars` returned, on the host.
        """
        count, with_gradient = len(self._parameters), len(self._with_gradient)
        indices, counts, _ = self._moment_ratios
        lengths = [count, count, len(self._changes), with_gradient, with_gradient, len(indices)]
        lengths += [len(self._parts), len(self._graded_parts)]
        pieces = np.split(values, np.cumsum(lengths))
        weights, before, moved, gradients, nonzero, moments, part_weights, part_gradients, scaling = pieces
        sizes = self._sizes.astype(np.float32).astype(np.float64)
        table[:, _WEIGHT_NORM] = _combined(table[:, _WEIGHT_NORM], self._rows, weights)
        every = np.arange(count)
        self._fill_rms(table, _WEIGHT_RMS, every[self._is_matrix], weights[self._is_matrix])
        beside = ~self._is_matrix & np.isin(self._rows, self._rows[self._is_matrix])
        self._fill_rms(table, _BIAS_RMS, every[beside], weights[beside])
        self._fill_parts(table, _PART_RMS, self._parts, part_weights)
        if self._overflow is not None and scaling[-1]:
            return
        if len(moved):
            size = _combined(np.full(len(table), np.nan), self._rows, before)
            change = _combined(np.full(len(table), np.nan), self._rows, moved)
            positive = size > 0
            with np.errstate(invalid="ignore"):
                ratio = np.where(np.isinf(change), np.inf, change / np.where(positive, size, 1))
            table[positive, _UPDATE] = ratio[positive]
        scale = 1.0 if self._scale is None else float(scaling[0])
        self._fill_parts(table, _PART_GRADIENTS, self._graded_parts, part_gradients / scale)
        if with_gradient:
            rows = self._rows[self._with_gradient]
            gradients = gradients if self._scale is None else gradients / scaling[0]
            table[:, _GRAD_NORM] = _combined(table[:, _GRAD_NORM], rows, gradients)
            matrices = self._is_matrix[self._with_gradient]
            self._fill_rms(table, _GRADIENT_RMS, np.array(self._with_gradient)[matrices], gradients[matrices])
            totals = np.bincount(rows, sizes[self._with_gradient], len(table))
            nonzeros = np.bincount(rows, nonzero, len(table))
            table[totals > 0, _ZEROS] = 1 - nonzeros[totals > 0] / totals[totals > 0]
        if indices:
            rows = self._rows[indices]
            totals = np.bincount(rows, counts, len(table))
            ratios = _combined(np.full(len(table), np.nan), rows, moments / np.sqrt(totals[rows]))
            table[:, _MOMENT] = np.fmax(table[:, _MOMENT], ratios)  # if two optimizers share a layer

    def _fill_rms(self, table: Floats, column: int, indices: NDArray[np.int64], norms: Floats) -> None:
        """Write root mean squares over some parameters of each layer, from their norms."""
        rows, sizes = self._rows[indices], self._sizes[indices]
        totals = np.bincount(rows, sizes, len(table))
        lengths = _combined(np.full(len(table), np.nan), rows, norms)
        measured = totals > 0
        table[measured, column] = lengths[measured] / np.sqrt(totals[measured])

    def _fill_parts(
        self, table: Floats, columns: Sequence[int], parts: Sequence[tuple[int, AttentionPart]], values: Floats
    ) -> None:
        """Write norms of parts, as root mean squares."""
        for (index, part), value in zip(parts, values, strict=True):
            size = self._sizes[index] / (1 if part.axis is None else 3)
            table[self._rows[index], columns[part.part]] = value / np.sqrt(size) if np.isfinite(value) else np.inf


def _is_trainable(parameter: nn.Parameter) -> bool:
    return _has_values(parameter) and parameter.requires_grad and parameter.numel() > 0


def _has_values(parameter: nn.Parameter) -> bool:
    return not isinstance(parameter, UninitializedParameter) and parameter.device.type != "meta"


def _combined(old: Floats, rows: np.ndarray[tuple[int], np.dtype[np.int64]], parts: Floats) -> Floats:
    """Return a column with the joint norms of its values and the parts in their rows; infinity if not finite."""
    squares = np.bincount(rows, np.where(np.isfinite(parts), parts, np.inf) ** 2, len(old))
    squares = squares.astype(np.float64)  # integers if there are no rows
    squares += np.where(np.isnan(old), 0, old) ** 2
    has_part = np.bincount(rows, minlength=len(old)) > 0
    return np.where(has_part, np.sqrt(squares), old)
