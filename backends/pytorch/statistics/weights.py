"""Statistics of an optimizer's step: the gradients before it, and how far it moved the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.backends.pytorch.model.describe import direct_parameters
from autotrainer.backends.pytorch.runtime.tensors import has_values
from autotrainer.backends.pytorch.statistics.frozen_weights import PART_COLUMNS, AttentionPart
from autotrainer.backends.pytorch.statistics.gradients import GradientDirection, GradientSample
from autotrainer.backends.pytorch.statistics.host_transfer import Results
from autotrainer.backends.pytorch.statistics.stats import changes, nonzero_counts, norms, sampled_entries
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.records.signals import LAYER_COLUMNS, PARTS, SAMPLED_ENTRIES, Floats

__all__ = ["OptimizerStepStats", "owners"]

_GRAD_NORM, _ZEROS, _WEIGHT_NORM, _UPDATE, _MOMENT = (
    LAYER_COLUMNS.index(name)
    for name in ("grad_norm", "grad_zero_fraction", "weight_norm", "update_ratio", "second_moment_ratio")
)

_WEIGHT_RMS, _GRADIENT_RMS = (LAYER_COLUMNS.index(name) for name in ("weight_rms", "weight_grad_rms"))
_PART_GRADIENTS = tuple(LAYER_COLUMNS.index(f"{part}_grad_rms") for part in PARTS)
_MOST_ENTRIES = 2**20
"""Entries of all layers that are compared one by one, at most."""
_BIAS_RMS = LAYER_COLUMNS.index("bias_rms")


def owners(modules: Sequence[nn.Module]) -> dict[nn.Parameter, int]:
    """Return the row of each parameter: that of the first module that has it, if several share it."""
    rows: dict[nn.Parameter, int] = {}
    for row, module in enumerate(modules):
        for parameter in direct_parameters(module):
            rows.setdefault(parameter, row)
    return rows


class OptimizerStepStats:
    """Statistics of one step of an optimizer. All results stay on the device until they are transferred.

    Args:
        parameters: Trainable parameters, each with the row of its layer.
        needs: Columns to measure; ``second_moment_ratio`` and ``gradient_cosine`` are skipped unless needed.
        parts: What `attention_parts` returned.
        guard: Keeps statistics apart.
    """

    def __init__(
        self,
        parameters: Sequence[tuple[nn.Parameter, int]],
        needs: frozenset[str],
        parts: Mapping[nn.Parameter, Sequence[AttentionPart]],
        guard: StatisticGuard,
    ) -> None:
        self._guard = guard
        trainable = [(p, row) for p, row in parameters if _is_trainable(p) and guard.active("weights", row)]
        try:
            self._weights = norms([p for p, _ in trainable])
        except Exception:  # noqa: BLE001 - the parameters that raise are left out
            trainable = [(p, row) for p, row in trainable if guard.measure("weights", _is_readable, p, row=row)]
            self._weights = norms([p for p, _ in trainable])
        self._parameters = [p for p, _ in trainable]
        self._rows = np.array([row for _, row in trainable], np.int64)
        sizes = np.array([p.numel() for p in self._parameters], np.int64)
        self._sizes = sizes
        layer_sizes = np.bincount(self._rows, sizes) if len(trainable) else np.zeros(0)
        shares = np.ceil(sizes * (SAMPLED_ENTRIES / np.maximum(layer_sizes[self._rows], 1))).astype(int)
        entries = np.minimum(sizes, shares)
        fraction = min(1.0, _MOST_ENTRIES / max(int(entries.sum()), 1))
        self._entries = np.maximum(1, (entries * fraction).astype(int)).tolist()
        self._with_gradient: list[int] = []
        self._gradients: list[Tensor] = []
        self._scaling: list[Tensor] = []
        self._scale: Tensor | None = None
        self._is_matrix = np.array([p.ndim > 1 for p in self._parameters], bool)
        self._parts = [(i, part) for i, p in enumerate(self._parameters) for part in parts.get(p, ())]
        whole = [part.of(self._parameters[i]) for i, part in self._parts]
        self._part_weights = guard.measure("attention projections", norms, whole) or []
        self._part_gradients: list[Tensor] = []
        self._graded_parts: list[tuple[int, AttentionPart]] = []
        self._before = guard.measure("weight updates", sampled_entries, self._parameters, self._entries) or []
        self._before_norms = guard.measure("weight updates", norms, self._before) or []
        self._changes: list[Tensor] = []
        self._gradients_read = False
        self._needs = needs & {"second_moment_ratio", "gradient_cosine"}
        self._gradient_sample: GradientSample | None = None
        self._moment_ratios: tuple[list[int], list[int], list[Tensor]] = [], [], []
        self._host_scale, self._overflowed = 1.0, False
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
        self._guard.measure("gradients", self._read_sizes)
        self._part_gradients = self._guard.measure("attention projections", self._read_parts) or []
        scale, overflow = (getattr(optimizer, name, None) for name in ("grad_scale", "found_inf"))
        self._scale = scale if isinstance(scale, Tensor) else None
        if isinstance(scale, Tensor) or isinstance(overflow, Tensor):
            usual = zip((scale, overflow), (1.0, 0.0), strict=True)
            scaling = [value if isinstance(value, Tensor) else torch.tensor(default) for value, default in usual]
            self._scaling = [value.detach().reshape(()).float() for value in scaling]
        if self._needs and any(p.grad is not None for p in self._parameters):
            self._gradient_sample = self._guard.measure(
                "gradient direction", GradientSample, self._parameters, self._entries, self._scale
            )

    def _read_sizes(self) -> None:
        """Read norms of gradients, and the numbers of their entries that are not zero."""
        graded = [(i, p.grad) for i, p in enumerate(self._parameters) if p.grad is not None]
        graded = [(i, gradient) for i, gradient in graded if self._guard.active("gradients", int(self._rows[i]))]
        try:
            sizes = _sizes([gradient for _, gradient in graded])
        except Exception:  # noqa: BLE001 - the gradients that raise are left out
            measure = self._guard.measure
            graded = [(i, g) for i, g in graded if measure("gradients", _is_readable, g, row=int(self._rows[i]))]
            sizes = _sizes([gradient for _, gradient in graded])
        self._with_gradient, self._gradients = [i for i, _ in graded], sizes

    def _read_parts(self) -> list[Tensor]:
        """Return norms of the gradients of parts of attention layers."""
        graded = [(i, part, self._parameters[i].grad) for i, part in self._parts]
        self._graded_parts = [(i, part) for i, part, gradient in graded if gradient is not None]
        return norms([part.of(gradient) for _, part, gradient in graded if gradient is not None])

    def compare(self, optimizer: Optimizer) -> None:
        """Read how far the weights have moved; the gradients, too, if a closure computed them within the step."""
        if not self._gradients_read:
            self.read_gradients(optimizer)
        if self._before:
            self._changes = self._guard.measure("weight updates", self._moved) or []
        self._before = []
        sample, self._gradient_sample = self._gradient_sample, None
        if sample is not None and "gradient_cosine" in self._needs:
            self.direction = self._guard.measure("gradient direction", sample.direction)
        if sample is not None and "second_moment_ratio" in self._needs:
            ratios = self._guard.measure("optimizer state", sample.moment_ratios, optimizer)
            self._moment_ratios = ratios or self._moment_ratios

    def _moved(self) -> list[Tensor]:
        return changes(self._before, sampled_entries(self._parameters, self._entries))

    def results(self, table: Floats) -> list[Results]:
        """Return all results, to be written into the layer table.

        Args:
            table: Shape (rows, columns), one row for each of the layers in order of definition; changed.
        """
        weights, updates = [*self._weights], [*self._before_norms, *self._changes]
        write = partial(self._fill_parts, table, PART_COLUMNS, self._parts)
        write_gradients = partial(self._fill_parts, table, _PART_GRADIENTS, self._graded_parts)
        ratios = self._moment_ratios[2]
        groups = [
            Results("gradients", self._scaling, self._fill_scaling),
            Results("weights", weights, partial(self._fill_weights, table)),
            Results("attention projections", self._part_weights, write),
            Results("weight updates", updates if self._changes else [], partial(self._fill_updates, table)),
            Results("gradients", self._gradients, partial(self._fill_gradients, table)),
            Results("optimizer state", ratios, partial(self._fill_moments, table)),
            Results("attention projections", self._part_gradients, write_gradients),
        ]
        return [group for group in groups if group.tensors]

    def _fill_scaling(self, values: Floats) -> None:
        self._host_scale, self._overflowed = float(values[0]), bool(values[1])

    def _fill_weights(self, table: Floats, weights: Floats) -> None:
        table[:, _WEIGHT_NORM] = _combined(table[:, _WEIGHT_NORM], self._rows, weights)
        every = np.arange(len(weights))
        self._fill_rms(table, _WEIGHT_RMS, every[self._is_matrix], weights[self._is_matrix])
        beside = ~self._is_matrix & np.isin(self._rows, self._rows[self._is_matrix])
        self._fill_rms(table, _BIAS_RMS, every[beside], weights[beside])

    def _fill_updates(self, table: Floats, values: Floats) -> None:
        if self._overflowed:
            return
        before, moved = np.split(values, 2)
        size = _combined(np.full(len(table), np.nan), self._rows, before)
        change = _combined(np.full(len(table), np.nan), self._rows, moved)
        positive = size > 0
        with np.errstate(invalid="ignore"):
            ratio = np.where(np.isinf(change), np.inf, change / np.where(positive, size, 1))
        table[positive, _UPDATE] = ratio[positive]

    def _fill_gradients(self, table: Floats, values: Floats) -> None:
        if self._overflowed:
            return
        gradients, nonzero = np.split(values, 2)
        gradients = gradients / self._host_scale
        rows = self._rows[self._with_gradient]
        table[:, _GRAD_NORM] = _combined(table[:, _GRAD_NORM], rows, gradients)
        matrices = self._is_matrix[self._with_gradient]
        self._fill_rms(table, _GRADIENT_RMS, np.array(self._with_gradient)[matrices], gradients[matrices])
        sizes = self._sizes.astype(np.float32).astype(np.float64)
        totals = np.bincount(rows, sizes[self._with_gradient], len(table))
        nonzeros = np.bincount(rows, nonzero, len(table))
        table[totals > 0, _ZEROS] = 1 - nonzeros[totals > 0] / totals[totals > 0]

    def _fill_moments(self, table: Floats, moments: Floats) -> None:
        if self._overflowed:
            return
        indices, counts, _ = self._moment_ratios
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
        gradients = columns is _PART_GRADIENTS
        if gradients and self._overflowed:
            return
        for (index, part), value in zip(parts, values / (self._host_scale if gradients else 1.0), strict=True):
            size = self._sizes[index] / (1 if part.axis is None else 3)
            table[self._rows[index], columns[part.part]] = value / np.sqrt(size) if np.isfinite(value) else np.inf


def _sizes(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the norms of gradients, and the numbers of their entries that are not zero."""
    return [*norms(gradients), *nonzero_counts(gradients)]


def _is_readable(tensor: Tensor) -> bool:
    """Return True; raise if the norm or the entries of a tensor can't be computed."""
    _sizes([tensor])
    sampled_entries([tensor], [1])
    return True


def _is_trainable(parameter: nn.Parameter) -> bool:
    return has_values(parameter) and parameter.requires_grad and parameter.numel() > 0


def _combined(old: Floats, rows: np.ndarray[tuple[int], np.dtype[np.int64]], parts: Floats) -> Floats:
    """Return a column with the joint norms of its values and the parts in their rows; infinity if not finite."""
    squares = np.bincount(rows, np.where(np.isfinite(parts), parts, np.inf) ** 2, len(old))
    squares = squares.astype(np.float64)  # integers if there are no rows
    squares += np.where(np.isnan(old), 0, old) ** 2
    has_part = np.bincount(rows, minlength=len(old)) > 0
    return np.where(has_part, np.sqrt(squares), old)
