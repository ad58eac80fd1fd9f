"""Turning what a sampled step gave out into an observation, and what is known of the run into its context."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.engines.recording import StepRecorder
from autotrainer.backends.keras3.model.describe import context_of, learning_rate
from autotrainer.backends.keras3.model.masks import unmasked
from autotrainer.backends.keras3.model.optimizers import optimizers_of
from autotrainer.backends.keras3.model.parts import Part, find_parts, in_known_order, with_unowned
from autotrainer.backends.keras3.model.weight_patterns import with_weight_forms
from autotrainer.backends.keras3.runtime.tensors import feature_rows, input_rows, row_count, rows_of, scalar
from autotrainer.backends.keras3.statistics.layer_table import LayerTable
from autotrainer.backends.keras3.watching.loss_tracker import LossTracker
from autotrainer.records.signals import LAYER_COLUMNS, Floats, Observation
from autotrainer.records.task import TaskContext

__all__ = ["Position", "StepMeasurement"]

_DORMANT = LAYER_COLUMNS.index("dormant")

_OUTPUT_OPERATIONS = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
    "LogSoftmax": "log_softmax",
    "Softplus": "softplus",
    "Elu": "elu",
}


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run is: optimizer steps so far, steps of this epoch so far, steps that one call takes."""

    count: int
    done: int
    stride: int


class StepMeasurement:
    """Measures the sampled steps of one model.

    Args:
        model: The model, built.
        losses: Logs of its steps.
        loss: Its loss; None for the compiled one.
        optimizer: Its optimizer; None for the compiled one.
        needs: Columns worth measuring; None for all.
        valued: Whether its variables hold values now: not always on the JAX engine, see `carried`.
    """

    def __init__(
        self,
        model: Any,
        losses: LossTracker,
        loss: Any = None,
        optimizer: Any = None,
        *,
        needs: frozenset[str] | None = None,
        valued: bool = True,
    ) -> None:
        self._model = model
        self._losses = losses
        self._given = loss, optimizer
        parts = find_parts(model)
        self.parts = with_weight_forms(parts) if valued else parts
        self._meter = LayerTable(self.parts, needs)
        self._order = list(range(len(self.parts)))
        self._output: tuple[str | None, int | None] = (None, None)
        self._output_row: int | None = None
        self._weighted = False
        self._applied: list[Any] = []  # the optimizers of a training step that does not use the compiled one
        self._learning_rate = float("nan")
        self._loss_scale = 1.0
        self.begun = False

    def before_step(self) -> None:
        """Take down what the step is going to change."""
        optimizer = self._optimizer()
        self._learning_rate = learning_rate(optimizer)
        self._loss_scale = _loss_scale(optimizer)
        self._meter.before_step()

    def begin(self, recorder: StepRecorder | None, seen: Mapping[str, Any]) -> None:
        """Learn from the first sampled step what could not be known before: order of layers, the output."""
        self.begun = True
        applied = [] if recorder is None else recorder.applied
        if applied and not any(optimizer is self._optimizer() for optimizer in applied):
            self._applied = list({id(optimizer): optimizer for optimizer in applied}.values())
        means = [partial(_value_of, m) for m in self._model.metrics if type(m) is keras.metrics.Mean]
        objectives = len({id(optimizer) for optimizer in applied or optimizers_of(self._model)})
        self._losses.learn(self._losses.logs[-1] if self._losses.logs else None, means, objectives)
        if recorder is None:
            return
        self._weighted = recorder.weighted
        outputs = seen.get("outputs")
        units = int(outputs.shape[-1]) if outputs is not None and len(outputs.shape) > 1 else None
        if not in_known_order(self._model):
            called = list(dict.fromkeys(recorder.order))
            self._order = called + [row for row in self._order if row not in called]
        last = [row for row in self._order if row in recorder.order and self.parts[row].info.kind != "norm"]
        self._output_row = recorder.output_row if recorder.output_row is not None else (last[-1] if last else None)
        activation = _OUTPUT_OPERATIONS.get(recorder.output_operation or "")
        if recorder.output_row is not None:
            activation = self.parts[recorder.output_row].activation or activation
        self._output = activation, units

    def context(self) -> TaskContext:
        """Return what is known of the training now, apart from its length and its data."""
        model = self._model
        parts = with_unowned([self._marked(row) for row in self._order], optimizers_of(model))
        loss, optimizer = self._given
        loss = getattr(model, "loss", None) if loss is None else loss
        optimizer = self._optimizer() if optimizer is None else optimizer
        context = context_of(model, parts, loss, optimizer)
        activation, units = self._output
        return replace(
            context,
            loss=replace(context.loss, weighted=context.loss.weighted or self._weighted),
            output_activation=context.output_activation or activation,
            output_units=units if units is not None else context.output_units,
        )

    def observation(self, recorder: StepRecorder | None, seen: Mapping[str, Any], position: Position) -> Observation:
        """Return what was seen of the step that has just been taken.

        Args:
            recorder: What recorded it; None if it could only be seen from outside.
            seen: Tensors recorded.
            position: Where the run is after the step.
        """
        updated = recorder is None or _updates(self._optimizer())
        if _loss_scale(self._optimizer()) < self._loss_scale:
            # Scaled gradients overflowed: the optimizer has left this step out and scales less from now on.
            seen, updated = {name: v for name, v in seen.items() if not name.startswith("gradient:")}, False
        loss = scalar(seen["loss"]) if "loss" in seen else float("nan")
        loss = self._losses.calibrate(loss, position.done, position.stride)
        self._losses.collect(position.count, position.done, position.stride, sampled=True)
        table = self._meter.table(
            seen,
            scale=self._loss_scale,
            updated=updated,
            optimizers=self._applied or [self._optimizer()],
        )
        scalars = {"gradient_cosine": self._meter.gradient_cosine}
        if getattr(self._optimizer(), "dynamic_scale", None) is not None:
            scalars["loss_scale"] = _loss_scale(self._optimizer())
        if recorder is not None:
            scalars["training_mode"] = recorder.modes.training_mode
        inputs, outputs, targets = (seen.get(name) for name in ("inputs", "outputs", "targets"))
        rows = row_count(outputs, targets)
        shown, wanted, mask = (rows_of(each, rows) for each in (outputs, targets, seen.get("mask")))
        if shown is not None and wanted is not None:
            wanted = unmasked(wanted, shown, mask)
        return Observation(
            step=position.count - 1,
            layers=self._shown(table),
            loss=loss,
            learning_rate=self._learning_rate,
            batch_size=float(inputs.shape[0]) if inputs is not None and inputs.shape else float("nan"),
            inputs=input_rows(inputs),
            outputs=shown,
            targets=wanted,
            losses=self._losses.take(),
            features=feature_rows(seen.get("features")),
            scalars={name: value for name, value in scalars.items() if math.isfinite(value)},
        )

    def _shown(self, table: Floats) -> Floats:
        """Return the table with its rows in forward order: units of the output are never dormant."""
        hidden = [self._marked(row).info.hidden for row in range(len(self.parts))]
        table[np.logical_not(hidden), _DORMANT] = np.nan
        return table[self._order]

    def _optimizer(self) -> Any:
        return self._applied[0] if self._applied else getattr(self._model, "optimizer", None)

    def _marked(self, row: int) -> Part:
        """Return a part, no hidden one if a step has shown that it makes the output."""
        part = self.parts[row]
        if self._output_row is None or in_known_order(self._model):
            return part
        makes_output = row == self._output_row
        if self.parts[self._output_row].info.kind == "activation":
            place = self._order.index(self._output_row)
            makes_output = makes_output or (place > 0 and row == self._order[place - 1])
        return replace(part, info=replace(part.info, hidden=not makes_output))


def _value_of(metric: Any) -> float:
    return float(keras.ops.convert_to_numpy(metric.result()))


def _loss_scale(optimizer: Any) -> float:
    """Return the factor by which the optimizer scales the loss, and gets its gradients scaled."""
    names = ("dynamic_scale", "initial_scale", "loss_scale_factor")  # the first is there once it is built
    scale = next((v for v in (getattr(optimizer, name, None) for name in names) if v is not None), None)
    return 1.0 if scale is None else float(keras.ops.convert_to_numpy(scale))


def _updates(optimizer: Any) -> bool:
    """Say whether the step just taken changed weights, rather than only accumulated gradients."""
    every = getattr(getattr(optimizer, "inner_optimizer", optimizer), "gradient_accumulation_steps", None)
    return not every or int(keras.ops.convert_to_numpy(optimizer.iterations)) % every == 0
