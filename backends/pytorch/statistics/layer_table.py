"""Builds the layer table of a sampled step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from autotrainer.backends.pytorch.ranks.shards import Shards
from autotrainer.backends.pytorch.statistics.attention import ATTENTION_INDICES
from autotrainer.backends.pytorch.statistics.forward_tracer import ForwardTracer
from autotrainer.backends.pytorch.statistics.frozen_weights import FrozenWeights, attention_parts
from autotrainer.backends.pytorch.statistics.gradients import GradientDirection
from autotrainer.backends.pytorch.statistics.host_transfer import Results, transfer
from autotrainer.backends.pytorch.statistics.normalization import NORM_INDICES
from autotrainer.backends.pytorch.statistics.row_sums import RowSums
from autotrainer.backends.pytorch.statistics.stats import ACTIVATION_COLUMNS, activation_columns
from autotrainer.backends.pytorch.statistics.weights import OptimizerStepStats
from autotrainer.records.measurement import ATTENTION_COLUMNS
from autotrainer.records.signals import DEAD_WINDOW, LAYER_COLUMNS, Floats, LayerInfo
from autotrainer.records.task import TaskContext

__all__ = ["LayerTable", "MeasuredTable"]

_SHARES = np.array(["entropy" in name for name in ATTENTION_COLUMNS])
_DEAD, _DORMANT = LAYER_COLUMNS.index("dead_units"), LAYER_COLUMNS.index("dormant")


class MeasuredTable:
    """The layer table of a step, whose sums over parameters may still be added up over processes.

    Args:
        table: Shape (modules, columns), without what follows from the sums.
        sums: The sums.
        finish: Completes the table, and returns it with its rows in forward order.
    """

    def __init__(self, table: Floats, sums: RowSums, finish: Callable[[Floats], Floats]) -> None:
        self.sums, self.table, self._finish = sums, table, finish

    def complete(self) -> Floats:
        """Return the whole table, shape (layers, columns)."""
        self.sums.write(self.table)
        return self._finish(self.table)


class LayerTable:
    """The layer table of one run: the order of its rows, and for how long each unit has been silent.

    Args:
        tracer: Records the forward passes.
    """

    def __init__(self, tracer: ForwardTracer) -> None:
        self._tracer, self._guard = tracer, tracer.guard
        self.shards = Shards(tracer.model)
        """How the parameters are spread over processes."""
        self.parts = attention_parts(tracer.names, tracer.modules)
        """Parts of attention layers that parameters hold."""
        self._frozen = FrozenWeights(tracer.modules, self.parts)
        self._order: list[int] = list(range(len(tracer.modules)))
        self._silent_for: dict[int, Tensor] = {}
        self._batch_counts: dict[int, int] = {}
        self._output_rows: list[int] = []
        self._directions: dict[int, GradientDirection] = {}
        self.scalars: dict[str, float] = {}
        """`STEP_COLUMNS` of the latest step, by name."""

    def begin(self, context: TaskContext, outputs: Tensor | None, activation: str | None) -> TaskContext:
        """Fix the rows and their order by the last forward pass.

        Args:
            context: The context so far.
            outputs: What the loss receives as the model's output, or None.
            activation: Activation of the outputs after they left the model, or None.

        Returns:
            The context, completed from that pass.
        """
        tracer = self._tracer
        self._order = tracer.order()
        origin, axis = tracer.output_origin, context.loss.class_axis
        if activation is None and origin is not None:
            activation = origin.activation
        units = None if outputs is None else (outputs.shape[axis] if outputs.ndim > 1 else 1)
        tracer.skip_unused_functional_mode()
        layers = tracer.describe(self._order)
        self._output_rows = [row for row, info in zip(self._order, layers, strict=True) if not info.hidden]
        tracer.find_output_layer(self._output_rows)
        return replace(
            context,
            layers=layers,
            output_activation=activation,
            output_units=units,
            input_kind=self._input_kind(layers),
        )

    def _input_kind(self, layers: Sequence[LayerInfo]) -> str:
        scaled = self._tracer.scales_inputs or (bool(layers) and layers[0].kind == "norm")
        return "scaled" if scaled and self._tracer.input_kind == "values" else self._tracer.input_kind

    def fill(
        self,
        step_stats: Sequence[OptimizerStepStats] = (),
        others: Sequence[Results] = (),
        peers: int | None = None,
    ) -> MeasuredTable:
        """Measure the table of a step, with a single transfer from the device.

        Args:
            step_stats: Statistics of each optimizer's step.
            others: Further results, which are transferred first.
            peers: Number of processes that will add up their sums; None: those of this process stand for the whole.
        """
        tracer = self._tracer
        table = np.full((len(tracer.modules), len(LAYER_COLUMNS)), np.nan)
        sums = RowSums(len(tracer.modules))
        self.scalars = {}
        groups = [*others]
        groups += [group for stats in step_stats for group in stats.results(sums, peers)]
        groups += tracer.embeddings.results(table)
        cosines = self._guard.measure("gradient direction", self._cosines, step_stats)
        groups += [Results("gradient direction", cosines, self._set_cosine)] if cosines else []
        dead = self._guard.measure("activations", self._dead_shares) or {}
        if tracer.output_stats:
            groups.append(_activation_results(table, tracer.output_stats))
        columns = (
            ("normalization", tracer.normalization, _write_norm),
            ("attention", tracer.attention, _write_attention),
            ("activations", dead, _write_dead),
        )
        for statistic, stats, write in columns:
            groups += [Results(statistic, [numbers], partial(write, table, row), row) for row, numbers in stats.items()]
        transfer(groups, self._guard)
        return MeasuredTable(table, sums, self._finish)

    def _finish(self, table: Floats) -> Floats:
        self._guard.measure("weights", self._frozen.fill, table)
        table[self._output_rows, _DORMANT] = np.nan
        return table[self._order]

    def _set_cosine(self, values: Floats) -> None:
        self.scalars = _cosine(values.reshape(-1, 3))

    def _cosines(self, step_stats: Sequence[OptimizerStepStats]) -> list[Tensor]:
        """Return, for each optimizer, the cosine to the gradient of the previous sampled step, and both lengths."""
        cosines = []
        for stats in step_stats:
            current, before = stats.direction, self._directions.get(stats.key)
            if current is not None:
                self._directions[stats.key] = current
            if current is not None and before is not None:
                cosines += [current.cosine(before), current.length, before.length]
        return cosines

    def _dead_shares(self) -> dict[int, Tensor]:
        """Count for how many sampled batches each unit has been silent, and return the share of dead ones."""
        shares = {}
        for row, silent in self._tracer.silent.items():
            before = self._silent_for.get(row)
            if before is None or before.shape != silent.shape:
                before = torch.zeros_like(silent, dtype=torch.int32)
                self._batch_counts[row] = 0
            self._silent_for[row] = torch.where(silent, before + 1, 0)
            self._batch_counts[row] += 1
            if self._batch_counts[row] >= DEAD_WINDOW:
                shares[row] = (self._silent_for[row] >= DEAD_WINDOW).float().mean()
        return shares


def _cosine(parts: Floats) -> dict[str, float]:
    """Combine the cosines of parts of two gradients, given with the parts' lengths, into that of the whole."""
    cosine, current, before = parts.T
    with np.errstate(all="ignore"):
        product = (cosine * current * before).sum() / (np.linalg.norm(current) * np.linalg.norm(before))
    return {"gradient_cosine": float(np.clip(product, -1, 1))} if np.isfinite(product) else {}


def _write_norm(table: Floats, row: int, numbers: Floats) -> None:
    table[row, NORM_INDICES] = np.where(np.isinf(numbers), np.nan, numbers)


def _write_attention(table: Floats, row: int, numbers: Floats) -> None:
    finite = np.isfinite(numbers[1])  # the largest logit
    table[row, ATTENTION_INDICES] = np.where(_SHARES, np.minimum(numbers, 1), numbers) if finite else np.inf


def _activation_results(table: Floats, numbers: Mapping[int, Sequence[Tensor | None]]) -> Results:
    """Return the results of `activation_numbers` by row of the layer table: one group, as there may be thousands."""
    per_row = len(next(iter(numbers.values())))
    flat = [number for row in numbers.values() for number in row]
    measured = [i for i, number in enumerate(flat) if number is not None]

    def write(values: Floats) -> None:
        filled = np.full(len(flat), np.nan)
        filled[measured] = values
        table[np.ix_(list(numbers), ACTIVATION_COLUMNS)] = activation_columns(filled.reshape(-1, per_row))

    def parts() -> list[Results]:
        each = (
            _activation_results(table, {row: of_row})._replace(row=row, parts=None) for row, of_row in numbers.items()
        )
        return list(each)

    return Results("activations", [number for number in flat if number is not None], write, parts=parts)


def _write_dead(table: Floats, row: int, share: Floats) -> None:
    table[row, _DEAD] = share[0]
