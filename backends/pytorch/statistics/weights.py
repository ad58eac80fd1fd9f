"""Statistics of an optimizer's step: the gradients before it, and how far it moved the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from autotrainer.backends.pytorch.model.describe import direct_parameters
from autotrainer.backends.pytorch.statistics.gradients import GradientDirection, GradientSample
from autotrainer.backends.pytorch.statistics.stats import changes, nonzero_counts, norms, sampled_entries
from autotrainer.records.signals import LAYER_COLUMNS, SAMPLED_ENTRIES, Floats

__all__ = ["OptimizerStepStats", "owners"]

_GRAD_NORM, _ZEROS, _WEIGHT_NORM, _UPDATE, _MOMENT = (
    LAYER_COLUMNS.index(name)
    for name in ("grad_norm", "grad_zero_fraction", "weight_norm", "update_ratio", "second_moment_ratio")
)


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
    """

    def __init__(self, parameters: Sequence[tuple[nn.Parameter, int]], needs: frozenset[str]) -> None:
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
        self._weights = norms(self._parameters)
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
        return [*self._weights, *self._before_norms, *self._changes, *self._gradients, *moments, *scale_values]

    def fill(self, table: Floats, values: Floats) -> None:
        """Write the results into the layer table.

        Args:
            table: Shape (rows, columns), one row for each of the layers in order of definition; changed.
            values: What `scalars` returned, on the host.
        """
        count, with_gradient = len(self._parameters), len(self._with_gradient)
        indices, counts, _ = self._moment_ratios
        lengths = [count, count, len(self._changes), with_gradient, with_gradient, len(indices)]
        parts = np.split(values, np.cumsum(lengths))
        weights, before, moved, gradients, nonzero, moments, scaling = parts
        sizes = self._sizes.astype(np.float32).astype(np.float64)
        table[:, _WEIGHT_NORM] = _combined(table[:, _WEIGHT_NORM], self._rows, weights)
        if self._overflow is not None and scaling[-1]:
            return
        if len(moved):
            size = _combined(np.full(len(table), np.nan), self._rows, before)
            change = _combined(np.full(len(table), np.nan), self._rows, moved)
            positive = size > 0
            with np.errstate(invalid="ignore"):
                ratio = np.where(np.isinf(change), np.inf, change / np.where(positive, size, 1))
            table[positive, _UPDATE] = ratio[positive]
        if with_gradient:
            rows = self._rows[self._with_gradient]
            gradients = gradients if self._scale is None else gradients / scaling[0]
            table[:, _GRAD_NORM] = _combined(table[:, _GRAD_NORM], rows, gradients)
            totals = np.bincount(rows, sizes[self._with_gradient], len(table))
            nonzeros = np.bincount(rows, nonzero, len(table))
            table[totals > 0, _ZEROS] = 1 - nonzeros[totals > 0] / totals[totals > 0]
        if indices:
            rows = self._rows[indices]
            totals = np.bincount(rows, counts, len(table))
            ratios = _combined(np.full(len(table), np.nan), rows, moments / np.sqrt(totals[rows]))
            table[:, _MOMENT] = np.fmax(table[:, _MOMENT], ratios)  # if two optimizers share a layer


def _is_trainable(parameter: nn.Parameter) -> bool:
    has_values = not isinstance(parameter, UninitializedParameter) and parameter.device.type != "meta"
    return has_values and parameter.requires_grad and parameter.numel() > 0


def _combined(old: Floats, rows: np.ndarray[tuple[int], np.dtype[np.int64]], parts: Floats) -> Floats:
    """Return a column with the joint norms of its values and the parts in their rows; infinity if not finite."""
    squares = np.bincount(rows, np.where(np.isfinite(parts), parts, np.inf) ** 2, len(old))
    squares = squares.astype(np.float64)  # integers if there are no rows
    squares += np.where(np.isnan(old), 0, old) ** 2
    has_part = np.bincount(rows, minlength=len(old)) > 0
    return np.where(has_part, np.sqrt(squares), old)
