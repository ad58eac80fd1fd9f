"""Builds the layer table of a sampled step with a single transfer from the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from autotrainer.backends.pytorch.statistics.attention import ATTENTION_INDICES
from autotrainer.backends.pytorch.statistics.forward_tracer import ForwardTracer
from autotrainer.backends.pytorch.statistics.gradients import GradientDirection
from autotrainer.backends.pytorch.statistics.normalization import NORM_INDICES
from autotrainer.backends.pytorch.statistics.stats import ACTIVATION_COLUMNS, joined
from autotrainer.backends.pytorch.statistics.weights import FrozenWeights, OptimizerStepStats, attention_parts
from autotrainer.records.measurement import ATTENTION_COLUMNS
from autotrainer.records.signals import DEAD_WINDOW, LAYER_COLUMNS, Floats, LayerInfo
from autotrainer.records.task import TaskContext

__all__ = ["LayerTable"]

_NEVER_NAN = np.array([True, True, True, False, False, False])
_SHARES = np.array(["entropy" in name for name in ATTENTION_COLUMNS])
_DEAD, _DORMANT = LAYER_COLUMNS.index("dead_units"), LAYER_COLUMNS.index("dormant")


class LayerTable:
    """The layer table of one run: the order of its rows, and for how long each unit has been silent.

    Args:
        tracer: Records the forward passes.
    """

    def __init__(self, tracer: ForwardTracer) -> None:
        self._tracer = tracer
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

    def fill(self, step_stats: Sequence[OptimizerStepStats], scalars: Sequence[Tensor]) -> tuple[Floats, Floats]:
        """Build the table of a step.

        Args:
            step_stats: Statistics of each optimizer's step.
            scalars: Further scalars to transfer to the host with it.

        Returns:
            The table, shape (layers, len(LAYER_COLUMNS)), and the values of the scalars.
        """
        output_stats = self._tracer.output_stats
        dead = self._dead_shares()
        attention, cosines, norms = self._tracer.attention, self._cosines(step_stats), self._tracer.normalization
        groups = [scalars, *(stats.scalars() for stats in step_stats)]
        groups += [self._tracer.embeddings.values(), [*norms.values()], cosines]
        groups += [[*attention.values()], [*dead.values()], [*output_stats.values()]]
        values = _to_host([tensor for group in groups for tensor in group])
        scalar_values, *rest = np.split(values, np.cumsum([sum(t.numel() for t in group) for group in groups])[:-1])
        table = np.full((len(self._tracer.modules), len(LAYER_COLUMNS)), np.nan)
        for stats, part in zip(step_stats, rest, strict=False):
            stats.fill(table, part)
        self._frozen.fill(table)
        table[list(dead), _DEAD] = rest[-2]
        norm_values = rest[-5].reshape(-1, len(NORM_INDICES))
        for row, numbers in zip(norms, norm_values, strict=True):
            table[row, NORM_INDICES] = np.where(np.isinf(numbers), np.nan, numbers)
        activations = rest[-1].reshape(-1, len(ACTIVATION_COLUMNS))
        for row, numbers in zip(output_stats, activations, strict=True):
            if not np.isfinite(numbers[0]):  # an entry is not finite: neither is any of the statistics
                share = numbers[-1]
                numbers = np.where(_NEVER_NAN | ~np.isfinite(numbers), np.inf, numbers)
                numbers[-1] = share if np.isnan(share) else np.inf
            table[row, ACTIVATION_COLUMNS] = numbers
        attention_values = rest[-3].reshape(-1, len(ATTENTION_COLUMNS))
        for row, numbers in zip(attention, attention_values, strict=True):
            finite = np.isfinite(numbers[1])  # the largest logit
            table[row, ATTENTION_INDICES] = np.where(_SHARES, np.minimum(numbers, 1), numbers) if finite else np.inf
        self._tracer.embeddings.fill(table, rest[-6])
        table[self._output_rows, _DORMANT] = np.nan
        self.scalars = _cosine(rest[-4].reshape(-1, 3))
        return table[self._order], scalar_values

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


def _to_host(tensors: Sequence[Tensor]) -> Floats:
    """Transfer scalars and vectors to the host at once."""
    if not tensors:
        return np.zeros(0)
    return joined([t.reshape(-1) for t in tensors]).detach().float().cpu().numpy().astype(np.float64)
