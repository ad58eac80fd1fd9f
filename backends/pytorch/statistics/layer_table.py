"""Puts what was read of the layers into one table, with a single transfer from the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from autotrainer.backends.pytorch.statistics.adam_moments import Direction
from autotrainer.backends.pytorch.statistics.attention import ATTENTION_COLUMNS
from autotrainer.backends.pytorch.statistics.stats import ACTIVATION_COLUMNS, joined
from autotrainer.backends.pytorch.statistics.tracing import ForwardTracer
from autotrainer.backends.pytorch.statistics.weights import StepReading
from autotrainer.records.signals import DEAD_WINDOW, LAYER_COLUMNS, Floats, LayerInfo
from autotrainer.records.task import TaskContext

__all__ = ["LayerTable"]

_ALWAYS = np.array([True, True, True, False, False, False])
_DEAD, _DORMANT = LAYER_COLUMNS.index("dead_units"), LAYER_COLUMNS.index("dormant")


class LayerTable:
    """The layer table of one run: which row is which layer, and how long each unit has been silent.

    Args:
        tracer: Sees the forward passes.
    """

    def __init__(self, tracer: ForwardTracer) -> None:
        self._tracer = tracer
        self._order: list[int] = list(range(len(tracer.modules)))
        self._silent_for: dict[int, Tensor] = {}
        self._batches: dict[int, int] = {}
        self._ends: list[int] = []
        self._directions: dict[int, Direction] = {}
        self.scalars: dict[str, float] = {}
        """`STEP_COLUMNS` of the step that was filled in last, by name."""

    def begin(self, context: TaskContext, outputs: Tensor | None, activation: str | None) -> TaskContext:
        """Fix rows and their order by the last forward pass.

        Args:
            context: What is known so far.
            outputs: What the loss takes for the model's output, or None.
            activation: What the outputs went through after they left the model, or None.

        Returns:
            The context, completed by what the pass has shown.
        """
        tracer = self._tracer
        self._order = tracer.order()
        trace, axis = tracer.output_trace, context.loss.class_axis
        if activation is None and trace is not None:
            activation = trace.activation
        units = None if outputs is None else (outputs.shape[axis] if outputs.ndim > 1 else 1)
        tracer.settle()
        layers = tracer.describe(self._order)
        self._ends = [row for row, info in zip(self._order, layers, strict=True) if not info.hidden]
        tracer.find_head(self._ends)
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

    def fill(self, readings: Sequence[StepReading], scalars: Sequence[Tensor]) -> tuple[Floats, Floats]:
        """Build the table of a step.

        Args:
            readings: What was read of each optimizer's step.
            scalars: Further scalars to bring to the host on the way.

        Returns:
            The table, shape (layers, len(LAYER_COLUMNS)), and the values of the scalars.
        """
        numbers = self._tracer.numbers
        dead = self._dead()
        attention, cosines = self._tracer.attention, self._cosines(readings)
        groups = [scalars, *(reading.scalars() for reading in readings)]
        groups += [cosines, [*attention.values()], [*dead.values()], [*numbers.values()]]
        values = _flat([tensor for group in groups for tensor in group])
        told, *rest = np.split(values, np.cumsum([sum(t.numel() for t in group) for group in groups])[:-1])
        table = np.full((len(self._tracer.modules), len(LAYER_COLUMNS)), np.nan)
        for reading, part in zip(readings, rest, strict=False):
            reading.fill(table, part)
        table[list(dead), _DEAD] = rest[-2]
        activations = rest[-1].reshape(-1, len(ACTIVATION_COLUMNS))
        for row, found in zip(numbers, activations, strict=True):
            if not np.isfinite(found[0]):  # some entry is not finite: so is everything that was measured of them
                share = found[-1]
                found = np.where(_ALWAYS | ~np.isfinite(found), np.inf, found)
                found[-1] = share if np.isnan(share) else np.inf
            table[row, ACTIVATION_COLUMNS] = found
        for row, found in zip(attention, rest[-3].reshape(-1, len(ATTENTION_COLUMNS)), strict=True):
            table[row, ATTENTION_COLUMNS] = (min(found[0], 1.0), found[1]) if np.isfinite(found[1]) else np.inf
        table[self._ends, _DORMANT] = np.nan
        self.scalars = _cosine(rest[-4].reshape(-1, 3))
        return table[self._order], told

    def _cosines(self, readings: Sequence[StepReading]) -> list[Tensor]:
        """Return, for each optimizer, the cosine to the gradient of the sampled step before, and both lengths."""
        found = []
        for reading in readings:
            now, before = reading.direction, self._directions.get(reading.key)
            if now is not None:
                self._directions[reading.key] = now
            if now is not None and before is not None:
                found += [now.cosine(before), now.length, before.length]
        return found

    def _dead(self) -> dict[int, Tensor]:
        """Count for how many sampled batches each unit has been silent, and return the share of dead ones."""
        shares = {}
        for row, silent in self._tracer.silent.items():
            before = self._silent_for.get(row)
            if before is None or before.shape != silent.shape:
                before = torch.zeros_like(silent, dtype=torch.int32)
                self._batches[row] = 0
            self._silent_for[row] = torch.where(silent, before + 1, 0)
            self._batches[row] += 1
            if self._batches[row] >= DEAD_WINDOW:
                shares[row] = (self._silent_for[row] >= DEAD_WINDOW).float().mean()
        return shares


def _cosine(parts: Floats) -> dict[str, float]:
    """Return the cosine between two gradients of which the cosines between parts are known, and the parts' lengths."""
    cosine, now, before = parts.T
    with np.errstate(all="ignore"):
        product = (cosine * now * before).sum() / (np.linalg.norm(now) * np.linalg.norm(before))
    return {"gradient_cosine": float(np.clip(product, -1, 1))} if np.isfinite(product) else {}


def _flat(tensors: Sequence[Tensor]) -> Floats:
    """Bring scalars and vectors to the host in one transfer."""
    if not tensors:
        return np.zeros(0)
    return joined([t.reshape(-1) for t in tensors]).detach().float().cpu().numpy().astype(np.float64)
