"""Turning the recorded tensors of a sampled step into an observation, and describing the run as its context."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.engines.step_recorder import StepRecorder
from autotrainer.backends.keras3.model.describe import context_of, learning_rate, optimizer_steps, scheduler_steps
from autotrainer.backends.keras3.model.loss_kinds import loss_info
from autotrainer.backends.keras3.model.losses import compiled_losses
from autotrainer.backends.keras3.model.masks import sequences, unmasked
from autotrainer.backends.keras3.model.optimizers import inner_optimizer, optimizers_of
from autotrainer.backends.keras3.model.ties import with_ties
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer, in_known_order, watched_layers, with_unowned
from autotrainer.backends.keras3.model.weight_patterns import with_weight_forms
from autotrainer.backends.keras3.runtime.tensors import (
    feature_rows,
    finite_or_inf,
    input_rows,
    row_count,
    rows_of,
    scalar,
    to_array,
)
from autotrainer.backends.keras3.statistics.layer_table import LayerTable
from autotrainer.backends.keras3.statistics.outside_variables import OutsideVariables
from autotrainer.backends.keras3.watching.loss_tracker import LossTracker
from autotrainer.backends.keras3.watching.step_counter import StepCounts
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.records.signals import LAYER_COLUMNS, Floats, Observation
from autotrainer.records.task import TaskContext

__all__ = ["StepMeasurement"]

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


class StepMeasurement:
    """Measures the sampled steps of one model.

    Args:
        model: The model, built.
        losses: The losses of its steps.
        guard: Measures statistics, so that one that fails is left out alone.
        loss: Its loss; None for the compiled one.
        optimizer: Its optimizer; None for the compiled one.
        needs: Columns to measure; None for all.
        readable: Whether its variables can be read now; see `readable_variables`.
    """

    def __init__(
        self,
        model: Any,
        losses: LossTracker,
        guard: StatisticGuard,
        loss: Any = None,
        optimizer: Any = None,
        *,
        needs: frozenset[str] | None = None,
        readable: bool = True,
    ) -> None:
        self._model = model
        self._losses, self._guard = losses, guard
        self._arguments = loss, optimizer
        self.layers = watched_layers(model)
        if readable:
            self.layers = guard.measure("weights", with_weight_forms, self.layers) or self.layers
            self.layers = guard.measure("tied weights", with_ties, self.layers) or self.layers
        self._layer_table = LayerTable(self.layers, guard, needs)
        self._outside = OutsideVariables(model)
        self._order = list(range(len(self.layers)))
        self._output: tuple[str | None, int | None] = (None, None)
        self._output_row: int | None = None
        self._passed_on: frozenset[int] = frozenset()  # layers whose output another layer receives as it is
        self._tied_row: int | None = None  # an embedding whose table is the weight of the output layer, too
        self.weighted = False
        """Whether the rows of a sampled batch had unequal weights."""
        self.penalty = float("nan")
        """What the latest loss held besides that of the only output: penalties on weights and activations."""
        self._composite = self._penalized = False
        self._output_index = 0
        self._custom_optimizers: list[Any] = []  # of a training step that does not use the compiled optimizer
        self._learning_rate = self._scheduler_steps = float("nan")
        self._loss_scale = 1.0
        self.begun = False

    def adopt(self, loss: Any, optimizers: Sequence[Any]) -> None:
        """Take loss and optimizers of a loop of the user's, which the model does not know; ``loss`` may be None."""
        known, optimizer = self._arguments
        self._arguments = loss if known is None else known, optimizer
        self._custom_optimizers = list(optimizers)

    def before_step(self) -> None:
        """Store what the step is going to change."""
        optimizer = self._optimizer()
        self._learning_rate = self._number("learning rate", learning_rate, optimizer)
        self._scheduler_steps = self._number("learning rate", scheduler_steps, optimizer)
        self._loss_scale = self._scale()
        self._layer_table.before_step()

    def begin(self, recorder: StepRecorder | None, recorded: Mapping[str, Any]) -> None:
        """Take from the first sampled step what was unknown before: order of layers, output, optimizers."""
        self.begun = True
        applied = [] if recorder is None else recorder.applied
        if applied and not any(optimizer is self._optimizer() for optimizer in applied):
            self._custom_optimizers = list({id(optimizer): optimizer for optimizer in applied}.values())
        means = [partial(_value_of, m) for m in self._model.metrics if type(m) is keras.metrics.Mean]
        objectives = len({id(optimizer) for optimizer in applied or optimizers_of(self._model)})
        self._losses.learn(self._losses.logs[-1] if self._losses.logs else None, means, objectives)
        if recorder is None:
            return
        self._composite, self._output_index = recorder.composite, recorder.output_index
        if recorder.own_loss is not None and self._loss() is None:
            self._arguments = recorder.own_loss, self._arguments[1]
        losses = compiled_losses(self._model)
        penalized = recorder.composite and not recorder.scaled and len(losses) == 1
        self._penalized = penalized and loss_info(losses[0].loss).reduction == "mean"
        outputs = recorded.get("outputs")
        units = int(outputs.shape[-1]) if outputs is not None and len(outputs.shape) > 1 else None
        if not in_known_order(self._model):
            called = list(dict.fromkeys(recorder.order))
            self._order = called + [row for row in self._order if row not in called]
        last = [row for row in self._order if row in recorder.order and self.layers[row].info.kind != "norm"]
        self._output_row = recorder.output_row if recorder.output_row is not None else (last[-1] if last else None)
        self._tied_row, self._passed_on = recorder.tied_row, recorder.passed_on
        if self._tied_row is not None:
            self._output_row = self._tied_row
        activation = _OUTPUT_OPERATIONS.get(recorder.output_operation or "")
        if recorder.output_row is not None:
            activation = self.layers[recorder.output_row].activation or activation
        self._output = activation, units

    def context(self) -> TaskContext:
        """Return the description of the training, without its length and its data."""
        model = self._model
        layers = with_unowned(
            [self._with_hidden(row) for row in self._order], optimizers_of(model) or self._custom_optimizers
        )
        optimizer = self._optimizer() if self._arguments[1] is None else self._arguments[1]
        context = context_of(model, layers, self._loss(), optimizer, self._output_index)
        activation, units = self._output
        return replace(
            context,
            loss=replace(context.loss, weighted=context.loss.weighted or self.weighted, composite=self._composite),
            output_activation=context.output_activation or activation,
            output_units=units if units is not None else context.output_units,
        )

    def _loss(self) -> Any:
        """Return the loss of the recorded output; None if it is unknown."""
        if self._arguments[0] is not None:
            return self._arguments[0]
        compiled = compiled_losses(self._model)
        return compiled[0].loss if compiled else getattr(self._model, "loss", None)

    def end(self) -> dict[str, float]:
        """Return facts about the end of the training, by name."""
        optimizer = self._optimizer()
        facts = {
            "final_rate": self._number("learning rate", learning_rate, optimizer),
            "final_scheduler_steps": self._number("learning rate", scheduler_steps, optimizer),
        }
        return {name: value for name, value in facts.items() if math.isfinite(value)}

    def observation(
        self, recorder: StepRecorder | None, recorded: Mapping[str, Any], counts: StepCounts
    ) -> Observation:
        """Return the observation of the step just taken.

        Args:
            recorder: What recorded it; None if it was not recorded.
            recorded: The recorded tensors.
            counts: Steps so far, this one included.
        """
        measure = self._guard.measure
        updated = recorder is None or bool(measure("optimizer state", _updates, self._optimizer()))
        if self._scale() < self._loss_scale:
            # Scaled gradients overflowed: the optimizer has skipped this step and reduced its scale.
            recorded, updated = {name: v for name, v in recorded.items() if not name.startswith("gradient:")}, False
        loss = self._number("loss", scalar, recorded["loss"]) if "loss" in recorded else float("nan")
        data_loss = self._number("loss terms", _data_loss, recorded)
        if self._penalized and "weights" not in recorded:
            self.penalty = loss - data_loss
        weights = to_array(recorded["weights"]) if "weights" in recorded else np.ones(1)
        self.weighted |= bool(np.ptp(weights) > 0)
        loss = self._losses.calibrate(loss, counts)
        terms = measure("loss terms", self._terms, counts, loss, data_loss) or {}
        self._losses.collect(counts, sampled=True)
        table = self._layer_table.table(
            recorded,
            scale=self._loss_scale,
            updated=updated,
            optimizers=self._custom_optimizers or [self._optimizer()],
        )
        scalars = {"gradient_cosine": self._layer_table.gradient_cosine, "data_loss": data_loss}
        scalars["gradient_factor"] = self._layer_table.gradient_factor
        scalars["scheduler_steps"] = self._scheduler_steps
        scalars["optimizer_steps"] = self._number("optimizer state", optimizer_steps, self._optimizer())
        if getattr(self._optimizer(), "dynamic_scale", None) is not None:
            scalars["loss_scale"] = self._scale()
        scalars["second_derivative"] = self._number("outputs", _largest_derivative, recorded)
        if recorder is not None:
            scalars["training_mode"] = recorder.modes.training_mode
            scalars["direct_loss"] = float(recorder.direct) if "loss" in recorded else float("nan")
            if recorder.ignores_targets is not None:
                scalars["targets_ignored"] = float(recorder.ignores_targets)
            if recorder.variables:
                optimizers = self._custom_optimizers or [self._optimizer()]
                scalars |= measure("weights", self._outside.values, recorder.variables, optimizers) or {}
        inputs, outputs, targets = (recorded.get(name) for name in ("inputs", "outputs", "targets"))
        rows = row_count(outputs, targets)
        output_rows = measure("outputs", rows_of, outputs, rows)
        target_rows = measure("targets", rows_of, targets, rows)
        ignored = getattr(self._loss(), "ignore_class", None)
        labels = measure("targets", sequences, recorded, ignored)
        if output_rows is not None and target_rows is not None:
            mask = measure("targets", rows_of, recorded.get("mask"), rows)
            target_rows = measure("targets", unmasked, target_rows, output_rows, mask, ignored)
        return Observation(
            step=counts.total - 1,
            layers=self._in_forward_order(table),
            loss=loss,
            learning_rate=self._learning_rate,
            batch_size=float(inputs.shape[0]) if inputs is not None and inputs.shape else float("nan"),
            inputs=measure("inputs", input_rows, inputs),
            outputs=output_rows,
            targets=target_rows,
            losses=self._losses.take(),
            features=measure("features of the output layer", feature_rows, recorded.get("features")),
            scalars={name: value for name, value in scalars.items() if not math.isnan(value)},
            terms=terms,
            weights=measure("targets", rows_of, recorded.get("weights"), rows) if "weights" in recorded else None,
            labels=labels,
        )

    def _number(self, statistic: str, function: Callable[..., float], *args: Any) -> float:
        value = self._guard.measure(statistic, function, *args)
        return math.nan if value is None else value

    def _scale(self) -> float:
        scale = self._guard.measure("loss scale", _loss_scale, self._optimizer())
        return 1.0 if scale is None else scale

    def _terms(self, counts: StepCounts, loss: float, data_loss: float) -> dict[str, float]:
        """Return the terms of the loss, weighted: the losses of several outputs, or that of one and the penalties."""
        parts = self._losses.terms(counts)
        if not parts:
            penalties = loss - data_loss if self._penalized else math.nan
            names = [part.name or "loss" for part in compiled_losses(self._model)[:1]] or ["loss"]
            return {} if math.isnan(penalties) else {names[0]: data_loss, "penalties": penalties}
        weights = {f"{part.name}_loss": part.loss_weights for part in compiled_losses(self._model)}
        weights = {name: 1.0 if weight is None else float(weight) for name, weight in weights.items()}
        return {name: value * weights.get(name, 1.0) for name, value in parts.items()}

    def _in_forward_order(self, table: Floats) -> Floats:
        """Return the table in forward order, without dormant units of output layers."""
        hidden = [self._with_hidden(row).info.hidden for row in range(len(self.layers))]
        table[np.logical_not(hidden), _DORMANT] = np.nan
        return table[self._order]

    def _optimizer(self) -> Any:
        return self._custom_optimizers[0] if self._custom_optimizers else getattr(self._model, "optimizer", None)

    def _with_hidden(self, row: int) -> WatchedLayer:
        """Return a layer as a step has shown it: whether it computes the output, and is followed by another."""
        watched = self.layers[row]
        if row in self._passed_on and watched.info.activation is None and watched.activation == "linear":
            watched = replace(watched, info=replace(watched.info, activation="linear"))  # no user code in between
        if row == self._tied_row:
            name = watched.info.name
            return replace(watched, info=replace(watched.info, hidden=False, tied_to=name, tie="kept"))
        known = in_known_order(self._model) and (self._tied_row is None or len(self._model.outputs) > 1)
        if self._output_row is None or known:
            return watched
        makes_output = row == self._output_row
        if self.layers[self._output_row].info.kind == "activation":
            index = self._order.index(self._output_row)
            makes_output = makes_output or (index > 0 and row == self._order[index - 1])
        return replace(watched, info=replace(watched.info, hidden=not makes_output))


def _largest_derivative(recorded: Mapping[str, Any]) -> float:
    """Return the largest magnitude of the second derivatives by inputs; NaN if none was recorded."""
    sizes = [np.abs(to_array(v)).max(initial=0) for k, v in recorded.items() if k.startswith("second_derivative:")]
    return finite_or_inf(max(sizes)) if sizes else math.nan


def _data_loss(recorded: Mapping[str, Any]) -> float:
    """Return the mean over unmasked rows of the loss of the outputs, without weights; NaN if it was not recorded."""
    if "row_losses" not in recorded:
        return float("nan")
    losses = to_array(recorded["row_losses"])
    counts = np.ones(losses.shape, bool)
    for mask in (to_array(recorded[name]) for name in ("mask", "row_mask") if name in recorded):
        if mask.shape != losses.shape:
            return float("nan")
        counts &= mask.astype(bool)
    return finite_or_inf(losses[counts].mean()) if counts.any() else float("nan")


def _value_of(metric: Any) -> float:
    return float(keras.ops.convert_to_numpy(metric.result()))


def _loss_scale(optimizer: Any) -> float:
    """Return the factor by which the optimizer scales the loss, and therefore the gradients."""
    names = ("dynamic_scale", "initial_scale", "loss_scale_factor")  # the first exists once the optimizer is built
    scale = next((v for v in (getattr(optimizer, name, None) for name in names) if v is not None), None)
    return 1.0 if scale is None else float(keras.ops.convert_to_numpy(scale))


def _updates(optimizer: Any) -> bool:
    """Return whether the step just taken changed weights, rather than only accumulated gradients."""
    every = getattr(inner_optimizer(optimizer), "gradient_accumulation_steps", None)
    return not every or int(keras.ops.convert_to_numpy(optimizer.iterations)) % every == 0
