"""Reads gradients before an optimizer's step, and how far the step moved the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from autotrainer.backends.pytorch.model.describe import own_parameters
from autotrainer.backends.pytorch.statistics.adam_moments import Direction, GradientEntries
from autotrainer.backends.pytorch.statistics.stats import changes, nonzero_counts, norms, sampled_entries
from autotrainer.records.signals import LAYER_COLUMNS, SAMPLED_ENTRIES, Floats

__all__ = ["StepReading", "owners"]

_GRAD_NORM, _ZEROS, _WEIGHT_NORM, _UPDATE, _MOMENT = (
    LAYER_COLUMNS.index(name)
    for name in ("grad_norm", "grad_zero_fraction", "weight_norm", "update_ratio", "second_moment_ratio")
)


def owners(modules: Sequence[nn.Module]) -> dict[nn.Parameter, int]:
    """Return the row of each parameter: the first module that owns it, where several share it."""
    found: dict[nn.Parameter, int] = {}
    for row, module in enumerate(modules):
        for parameter in own_parameters(module):
            found.setdefault(parameter, row)
    return found


class StepReading:
    """What one step of an optimizer is read for. All results stay on the device until `fill`.

    Args:
        parameters: Trainable parameters, each with the row of its layer.
        needs: Columns that are worth measuring: without them, second moment and direction of gradients are left out.
    """

    def __init__(self, parameters: Sequence[tuple[nn.Parameter, int]], needs: frozenset[str]) -> None:
        usable = [(parameter, row) for parameter, row in parameters if _usable(parameter)]
        self._parameters = [p for p, _ in usable]
        self._rows = np.array([row for _, row in usable], np.int64)
        sizes = np.array([p.numel() for p in self._parameters], np.int64)
        self._sizes = sizes
        layer_sizes = np.bincount(self._rows, sizes) if len(usable) else np.zeros(0)
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
        self._graded = False
        self._needs = needs & {"second_moment_ratio", "gradient_cosine"}
        self._entries_of_gradients: GradientEntries | None = None
        self._moments: tuple[list[int], list[int], list[Tensor]] = [], [], []
        self.direction: Direction | None = None
        """That of the gradients, where it was worth measuring."""

    @property
    def key(self) -> int:
        """What readings of the same optimizer have in common."""
        return id(self._parameters[0]) if self._parameters else 0

    def read_gradients(self, optimizer: Optimizer) -> None:
        """Read the gradients as they are now.

        A `GradScaler` leaves it to a fused optimizer to take its scale out of them, and to leave a step out whose
        scaled gradients have overflowed: it is done here too.
        """
        self._graded = True
        self._with_gradient = [i for i, p in enumerate(self._parameters) if p.grad is not None]
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        self._gradients = [*norms(gradients), *nonzero_counts(gradients)]
        scale = getattr(optimizer, "grad_scale", None)
        self._scale = scale if isinstance(scale, Tensor) else None
        overflow = getattr(optimizer, "found_inf", None)
        self._overflow = overflow if isinstance(overflow, Tensor) else None
        if self._needs and gradients:
            self._entries_of_gradients = GradientEntries(self._parameters, self._entries, self._scale)

    def compare(self, optimizer: Optimizer) -> None:
        """Read how far the weights have moved; gradients too if a closure has made them only in the step itself."""
        if not self._graded:
            self.read_gradients(optimizer)
        self._changes = changes(self._before, sampled_entries(self._parameters, self._entries))
        self._before = []
        entries, self._entries_of_gradients = self._entries_of_gradients, None
        if entries is not None and "gradient_cosine" in self._needs:
            self.direction = entries.direction()
        if entries is not None and "second_moment_ratio" in self._needs:
            self._moments = entries.moment_ratios(optimizer)

    def scalars(self) -> list[Tensor]:
        """Return all results as scalars, for one transfer to the host."""
        scaling = [value for value in (self._scale, self._overflow) if value is not None]
        told = [value.detach().reshape(()).float() for value in scaling]
        return [*self._weights, *self._before_norms, *self._changes, *self._gradients, *self._moments[2], *told]

    def fill(self, table: Floats, values: Floats) -> None:
        """Write the results into the layer table.

        Args:
            table: Shape (rows, columns), one row for each of the layers in order of definition; changed.
            values: What `scalars` returned, on the host.
        """
        count, graded = len(self._parameters), len(self._with_gradient)
        places, counts, _ = self._moments
        parts = np.split(values, np.cumsum([count, count, len(self._changes), graded, graded, len(places)]))
        weights, before, moved, gradients, nonzero, moments, scaling = parts
        sizes = self._sizes.astype(np.float32).astype(np.float64)
        table[:, _WEIGHT_NORM] = _joined(table[:, _WEIGHT_NORM], self._rows, weights)
        if self._overflow is not None and scaling[-1]:
            return
        if len(moved):
            size = _joined(np.full(len(table), np.nan), self._rows, before)
            change = _joined(np.full(len(table), np.nan), self._rows, moved)
            known = size > 0
            with np.errstate(invalid="ignore"):
                ratio = np.where(np.isinf(change), np.inf, change / np.where(known, size, 1))
            table[known, _UPDATE] = ratio[known]
        if graded:
            rows = self._rows[self._with_gradient]
            gradients = gradients if self._scale is None else gradients / scaling[0]
            table[:, _GRAD_NORM] = _joined(table[:, _GRAD_NORM], rows, gradients)
            totals = np.bincount(rows, sizes[self._with_gradient], len(table))
            found = np.bincount(rows, nonzero, len(table))
            table[totals > 0, _ZEROS] = 1 - found[totals > 0] / totals[totals > 0]
        if places:
            rows = self._rows[places]
            totals = np.bincount(rows, counts, len(table))
            ratios = _joined(np.full(len(table), np.nan), rows, moments / np.sqrt(totals[rows]))
            table[:, _MOMENT] = np.fmax(table[:, _MOMENT], ratios)  # where two optimizers share a layer


def _usable(parameter: nn.Parameter) -> bool:
    known = not isinstance(parameter, UninitializedParameter) and parameter.device.type != "meta"
    return known and parameter.requires_grad and parameter.numel() > 0


def _joined(old: Floats, rows: np.ndarray[tuple[int], np.dtype[np.int64]], parts: Floats) -> Floats:
    """Return a column with the joint norms of its values and the parts in their rows; infinity if not finite."""
    squares = np.bincount(rows, np.where(np.isfinite(parts), parts, np.inf) ** 2, len(old))
    squares += np.where(np.isnan(old), 0, old) ** 2
    hit = np.bincount(rows, minlength=len(old)) > 0
    return np.where(hit, np.sqrt(squares), old)
