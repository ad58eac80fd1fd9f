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
from autotrainer.backends.pytorch.ranks.shards import Shards, is_summand, local_part
from autotrainer.backends.pytorch.runtime.tensors import has_values
from autotrainer.backends.pytorch.statistics.frozen_weights import AttentionPart
from autotrainer.backends.pytorch.statistics.gradients import GradientDirection, GradientSample
from autotrainer.backends.pytorch.statistics.host_transfer import Results
from autotrainer.backends.pytorch.statistics.row_sums import RowSums
from autotrainer.backends.pytorch.statistics.stats import changes, nonzero_counts, norms, sampled_entries
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.records.signals import PARTS, SAMPLED_ENTRIES, Floats

__all__ = ["OptimizerStepStats", "owners"]

_MOST_ENTRIES = 2**20
"""Entries of all layers that are compared one by one, at most."""


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
        shards: How the parameters are spread over processes.

    Of tensors that are spread over processes, what this one holds is read.
    """

    def __init__(
        self,
        parameters: Sequence[tuple[nn.Parameter, int]],
        needs: frozenset[str],
        parts: Mapping[nn.Parameter, Sequence[AttentionPart]],
        guard: StatisticGuard,
        shards: Shards,
    ) -> None:
        self._guard, self._shards = guard, shards
        trainable = [(p, row) for p, row in parameters if _is_trainable(p) and guard.active("weights", row)]
        try:
            self._weights = norms([local_part(p) for p, _ in trainable])
        except Exception:  # noqa: BLE001 - the parameters that raise are left out
            trainable = [
                (p, row) for p, row in trainable if guard.measure("weights", _is_readable, local_part(p), row=row)
            ]
            self._weights = norms([local_part(p) for p, _ in trainable])
        self._parameters = [p for p, _ in trainable]
        self._local = [local_part(p) for p in self._parameters]
        self._rows = np.array([row for _, row in trainable], np.int64)
        sizes = np.array([p.numel() for p in self._local], np.int64)
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
        self._is_matrix = np.array([shards.axes(p) > 1 for p in self._parameters], bool)
        self._factors = np.ones(len(trainable))
        joint = [(i, p) for i, p in enumerate(self._parameters) if self._local[i].shape == p.shape]
        self._parts = [(i, part) for i, p in joint for part in parts.get(p, ())]  # of a shard, they are unknown
        whole = [part.of(self._local[i]) for i, part in self._parts]
        self._part_weights = guard.measure("attention projections", norms, whole) or []
        self._part_gradients: list[Tensor] = []
        self._graded_parts: list[tuple[int, AttentionPart]] = []
        self._before = guard.measure("weight updates", sampled_entries, self._local, self._entries) or []
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
    def weight_norms(self) -> list[Tensor]:
        """The norms of the parameters before the step: scalars."""
        return self._weights

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
        gradients = [None if p.grad is None or is_summand(p.grad) else local_part(p.grad) for p in self._parameters]
        graded = [(i, gradient) for i, gradient in enumerate(gradients) if gradient is not None]
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
        graded = [
            (i, part, gradient) for i, part, gradient in graded if gradient is not None and not is_summand(gradient)
        ]
        self._graded_parts = [(i, part) for i, part, _ in graded]
        return norms([part.of(local_part(gradient)) for _, part, gradient in graded if gradient is not None])

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
        local = [local_part(p) for p in self._parameters]
        return changes(self._before, sampled_entries(local, self._entries))

    def results(self, sums: RowSums, peers: int | None) -> list[Results]:
        """Return all results, to be added to the sums of the layers.

        Args:
            sums: The sums; changed.
            peers: Number of processes whose sums will be added up; None: those of this process stand for the whole.
        """
        self._factors = np.array([self._shards.factor(p, peers) for p in self._parameters], np.float64)
        updates = [*self._before_norms, *self._changes] if self._changes else []
        ratios = self._moment_ratios[2]
        write_parts = partial(self._fill_parts, sums, "rms", self._parts)
        write_gradient_parts = partial(self._fill_parts, sums, "grad_rms", self._graded_parts)
        groups = [
            Results("gradients", self._scaling, self._fill_scaling),
            Results("weights", self._weights, partial(self._fill_weights, sums)),
            Results("attention projections", self._part_weights, write_parts),
            Results("weight updates", updates, partial(self._fill_updates, sums)),
            Results("gradients", self._gradients, partial(self._fill_gradients, sums)),
            Results("optimizer state", ratios, partial(self._fill_moments, sums)),
            Results("attention projections", self._part_gradients, write_gradient_parts),
        ]
        return [group for group in groups if group.tensors]

    def _fill_scaling(self, values: Floats) -> None:
        self._host_scale, self._overflowed = float(values[0]), bool(values[1])

    def _add(self, sums: RowSums, group: str, indices: NDArray[np.int64], norms: Floats) -> None:
        """Add the norms of the parameters with these indices, or of their gradients."""
        entries = self._sizes[indices].astype(np.float32).astype(np.float64)  # as counts of them are transferred
        sums.add(group, self._rows[indices], norms, entries, self._factors[indices])

    def _fill_weights(self, sums: RowSums, weights: Floats) -> None:
        every = np.arange(len(weights))
        self._add(sums, "weight", every, weights)
        self._add(sums, "matrix", every[self._is_matrix], weights[self._is_matrix])
        beside = ~self._is_matrix & np.isin(self._rows, self._rows[self._is_matrix])
        self._add(sums, "bias", every[beside], weights[beside])

    def _fill_updates(self, sums: RowSums, values: Floats) -> None:
        if not self._overflowed:
            before, moved = np.split(values, 2)
            self._add(sums, "before", np.arange(len(before)), before)
            sums.add_change(self._rows, moved, self._factors)

    def _fill_gradients(self, sums: RowSums, values: Floats) -> None:
        if self._overflowed:
            return
        gradients, nonzero = np.split(values, 2)
        gradients, indices = gradients / self._host_scale, np.array(self._with_gradient, np.int64)
        self._add(sums, "gradient", indices, gradients)
        sums.add_nonzero(self._rows[indices], nonzero, self._factors[indices])
        matrices = self._is_matrix[indices]
        self._add(sums, "matrix_gradient", indices[matrices], gradients[matrices])

    def _fill_moments(self, sums: RowSums, moments: Floats) -> None:
        if not self._overflowed:
            indices, counts, _ = self._moment_ratios
            entries = np.array(counts, np.float64)
            sums.add("moment", self._rows[indices], moments, entries, self._factors[indices])

    def _fill_parts(
        self, sums: RowSums, column: str, parts: Sequence[tuple[int, AttentionPart]], values: Floats
    ) -> None:
        """Add norms of parts of attention layers."""
        gradients = column == "grad_rms"
        if gradients and self._overflowed:
            return
        for (index, part), value in zip(parts, values / (self._host_scale if gradients else 1.0), strict=True):
            one = np.array([index])
            entries = self._sizes[one] / (1 if part.axis is None else 3)
            group = f"{PARTS[part.part]}_{column}"
            sums.add(group, self._rows[one], np.array([value]), entries, self._factors[one])


def _sizes(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the norms of gradients, and the numbers of their entries that are not zero."""
    return [*norms(gradients), *nonzero_counts(gradients)]


def _is_readable(tensor: Tensor) -> bool:
    """Return True; raise if the norm or the entries of a tensor can't be computed."""
    _sizes([tensor])
    sampled_entries([tensor], [1])
    return True


def _is_trainable(parameter: nn.Parameter) -> bool:
    return has_values(parameter) and parameter.requires_grad and local_part(parameter).numel() > 0
