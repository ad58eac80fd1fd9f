"""Statistics of embeddings: their indices, the rows that these select, and the gradients of those rows.

Only rows that occur are read, and few of them: never the whole table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.backends.pytorch.model.describe import own_parameter
from autotrainer.backends.pytorch.optim.optimizers import parameter_ids
from autotrainer.backends.pytorch.statistics.host_transfer import Results
from autotrainer.backends.pytorch.statistics.stats import norms
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.records.measurement import ORDERED, names_positions
from autotrainer.records.signals import LAYER_COLUMNS, LOOKUP_ROWS, LOOKUP_STEPS, LOOKUP_VALUES, LOOKUPS, Floats

__all__ = ["EmbeddingStats", "takes_indices"]

_ORDER = [LAYER_COLUMNS.index(name) for name in ("padding_between", "rising_indices", "equal_indices")]
_GRADIENTS = [
    LAYER_COLUMNS.index(name)
    for name in (
        "lookups_without_gradient",
        "frequent_rows",
        "rows_without_gradient",
        "rows_of_zero",
        "typical_row_gradient",
    )
]
_POSITIONS = [LAYER_COLUMNS.index("position_grad_norm")]


def takes_indices(module: nn.Module) -> TypeGuard[nn.Embedding]:
    """Return whether the first argument of a module holds the indices of an embedding."""
    return type(module).forward in (nn.Embedding.forward, nn.EmbeddingBag.forward)


class EmbeddingStats:
    """Statistics of the embeddings of one sampled step after the other. Results stay on the device until they
    are transferred.

    Args:
        names: Names of the modules.
        modules: The modules: rows of the layer table.
        guard: Keeps the statistics of layers apart.
    """

    def __init__(self, names: Sequence[str], modules: Sequence[nn.Module], guard: StatisticGuard) -> None:
        self._guard = guard
        self._tables = {row: m for row, m in enumerate(modules) if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
        # Reading a parametrized weight would compute it, and might change it: it has no entry here.
        weights = {row: own_parameter(module, "weight") for row, module in reversed(self._tables.items())}
        self._row_of = {id(weight): row for row, weight in weights.items() if _is_plain(weight)}
        self._positions: dict[int, list[nn.Parameter]] = {}
        for row, (path, module) in enumerate(zip(names, modules, strict=True)):
            if row in self._tables or not type(module).__module__.startswith("torch."):
                named = {name: p for name, p in module._parameters.items() if p is not None and p.ndim > 1}
                parameters = [p for name, p in named.items() if _is_plain(p) and names_positions(f"{path}.{name}")]
                if parameters:
                    self._positions[row] = parameters
        self._occurred: dict[int, Tensor] = {}
        self._had_gradient: dict[int, Tensor] = {}
        self.clear()

    def clear(self) -> None:
        """Drop the results of earlier steps."""
        self.sequences: dict[int, Tensor] = {}
        """Indices with two axes, by row."""
        self._indices: dict[int, Tensor] = {}
        self._shapes: dict[int, torch.Size] = {}
        self._order: dict[int, Tensor] = {}
        self._gradients: dict[int, Tensor] = {}
        self._position_norms: dict[int, Tensor] = {}

    def record(self, weight: Tensor | None, indices: Tensor) -> None:
        """Record a call of an embedding with this weight; others are left out."""
        row = self._row_of.get(id(weight))
        if (
            row is None
            or weight is None
            or not isinstance(indices, Tensor)
            or not indices.numel()
            or not weight.numel()
            or indices.is_floating_point()
        ):
            return
        self._guard.measure("embeddings", self._record, row, weight, indices.detach(), row=row)

    def _record(self, row: int, weight: Tensor, indices: Tensor) -> None:
        most = min(LOOKUPS, max(1, LOOKUP_VALUES // weight.shape[-1]))
        flat = indices.reshape(-1)
        if indices.ndim == 2:
            self.sequences[row] = indices
        self._indices[row] = flat[:: math.ceil(flat.numel() / most)].long()
        self._shapes[row] = weight.shape
        self._order[row] = _order(indices, self._tables[row].padding_idx)

    def read_gradients(self, optimizer: Optimizer) -> None:
        """Read the gradients of the rows that occur, and those of positions, as far as this optimizer owns them."""
        owned = parameter_ids(optimizer)
        for row, chosen in self._indices.items():
            weight = own_parameter(self._tables[row], "weight")
            if weight is None or weight.shape != self._shapes[row] or weight.device != chosen.device:
                continue  # sharded or moved since: the indices might exceed it
            if row not in self._gradients and (not weight.requires_grad or id(weight) in owned):
                stats = self._guard.measure("embeddings", self._row_stats, row, weight, chosen, row=row)
                if stats is not None:
                    self._gradients[row] = stats
        for row, parameters in self._positions.items():
            trained = [p for p in parameters if p.requires_grad and id(p) in owned]
            gradients = [p.grad for p in trained if p.grad is not None]
            if trained:
                zero = torch.zeros((), device=trained[0].device)
                norm = self._guard.measure("embeddings", _joint_norm, gradients, row=row) if gradients else zero
                if norm is not None:
                    self._position_norms[row] = norm

    def _row_stats(self, row: int, weight: Tensor, chosen: Tensor) -> Tensor:
        """Return the `_GRADIENTS` of a table: of the rows chosen now, and of those that have occurred often enough."""
        chosen = chosen.sort().values
        first = torch.ones_like(chosen, dtype=torch.bool)
        first[1:] = chosen[1:] != chosen[:-1]
        padding = self._tables[row].padding_idx
        counts = first if padding is None else first & (chosen != padding)
        frozen = not weight.requires_grad
        without = torch.zeros_like(first) if frozen else _without_gradient(weight.grad, chosen)
        if row not in self._occurred or len(self._occurred[row]) != len(weight):
            self._occurred[row] = torch.zeros(len(weight), dtype=torch.uint8, device=weight.device)
            self._had_gradient[row] = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
        occurred, had_gradient = self._occurred[row], self._had_gradient[row]
        occurred[chosen] = (occurred[chosen] + 1).clamp_max(LOOKUP_STEPS)  # once, however often an index occurs
        had_gradient[chosen] |= ~without
        frequent = occurred >= LOOKUP_STEPS
        if padding is not None:
            frequent[padding] = False
        zero = (weight.detach()[chosen] == 0).all(-1) & counts & frequent[chosen]
        share = (without & counts).sum() / counts.sum().float()
        never = (frequent & ~had_gradient).sum().float()
        unknown = share * math.nan
        share, never = (unknown, unknown) if frozen else (share, never)
        typical = unknown if frozen else _typical_gradient(weight.grad, chosen, counts)
        return torch.stack((share, frequent.sum().float(), never, zero.sum().float(), typical))

    def results(self, table: Floats) -> list[Results]:
        """Return all results, to be written into the layer table.

        Args:
            table: Shape (rows, columns), one row for each of the modules; changed.
        """
        groups = []
        for columns, results in ((_ORDER, self._order), (_GRADIENTS, self._gradients)):
            groups += [
                Results("embeddings", [values], partial(_write, table, row, columns), row)
                for row, values in results.items()
            ]
        for row, norm in self._position_norms.items():
            groups.append(Results("embeddings", [norm], partial(_write_norm, table, row), row))
        return groups


def _joint_norm(tensors: Sequence[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms(tensors)))
    return norm


def _write(table: Floats, row: int, columns: Sequence[int], values: Floats) -> None:
    table[row, columns] = values


def _write_norm(table: Floats, row: int, values: Floats) -> None:
    """Write the norm of a gradient; one that is not a number is not finite."""
    table[row, _POSITIONS] = np.where(np.isfinite(values), values, np.inf)


def _is_plain(weight: Tensor | None) -> bool:
    """Return whether a weight is an ordinary parameter, no distributed or quantized one."""
    return type(weight) in (nn.Parameter, Tensor)


def _without_gradient(gradient: Tensor | None, chosen: Tensor) -> Tensor:
    """Return which of the chosen rows have a gradient of exactly zero."""
    if gradient is None:
        return torch.ones_like(chosen, dtype=torch.bool)
    if not gradient.is_sparse:
        return (gradient[chosen] == 0).all(-1)
    gradient = gradient.coalesce()
    nonzero = (gradient.values() != 0).any(-1)
    return ~torch.isin(chosen, gradient.indices()[0][nonzero])


def _typical_gradient(gradient: Tensor | None, chosen: Tensor, counts: Tensor) -> Tensor:
    """Return the median ÷ the largest gradient norm of the rows that count; NaN for a sparse gradient, or none."""
    if gradient is None or gradient.is_sparse:
        return torch.full((), math.nan, device=chosen.device)
    sizes = torch.linalg.vector_norm(gradient[chosen].float(), dim=-1).masked_fill(~counts, math.nan)
    share: Tensor = sizes.nanmedian() / sizes.nan_to_num(0.0).amax()
    return share


def _order(indices: Tensor, padding: int | None) -> Tensor:
    """Return what the order of indices along the last axis shows, as `_ORDER`; NaN for what is unknown."""
    unknown = torch.full((), math.nan, device=indices.device)
    rows = indices.reshape(-1, indices.shape[-1]) if indices.ndim else indices.reshape(1, 1)
    if rows.shape[1] < 2:
        return unknown.expand(3)
    rows = rows[:: math.ceil(rows.shape[0] / LOOKUP_ROWS), : 4 * LOOKUPS]
    steps = rows[:, 1:] - rows[:, :-1]
    between = unknown
    if padding is not None and indices.ndim > 1 and rows.shape[1] >= ORDERED:
        other = rows != padding
        alone = ~other[:, 1:-1] & other[:, :-2] & other[:, 2:]
        between = alone.sum() / (~other).sum().float()
    return torch.stack((between, (steps == 1).float().mean(), (steps == 0).float().mean()))
