"""What edits add to the course of a training in Keras: each companion acts at the beginning and end of epochs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from autotrainer.backends.keras3.model.parts import Part
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.backends.keras3.surgery.hidden_edits import carriers
from autotrainer.edits import ResetOptimizerState, ReviveUnits, Rollback, initializer_for

__all__ = ["RedoCallback", "RollbackCallback", "StateResetCallback", "TrainingCallback", "revivable"]

_GAINED = 0.1
"""Share of what the loss has fallen by that always counts as noise: near zero a loss doubles without harm."""
_LAST = 0.75
"""Share of the epochs in which units are drawn anew: later they would have no time to learn."""


class TrainingCallback:
    """Goes along with one training; does nothing unless a subclass says so."""

    def begin_epoch(self, epoch: int) -> None:
        """Act before the first batch of an epoch."""

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Act at the end of an epoch with this mean loss, before it is evaluated."""


class RollbackCallback(TrainingCallback):
    """Goes back to the best epoch where the training loss has gone bad; see `Rollback`."""

    def __init__(self, model: Any, edit: Rollback) -> None:
        self._model, self._edit = model, edit
        self._first = self._best = math.nan
        self._kept: list[NDArray[Any]] | None = None

    def begin_epoch(self, epoch: int) -> None:
        """Keep the start: the first epoch may be a bad one."""
        optimizer = self._model.optimizer
        if not optimizer.built:
            optimizer.build(self._model.trainable_variables)
        if self._kept is None:
            self._kept = self._state()

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Keep a good epoch, leave a bad one."""
        if math.isnan(self._first) and math.isfinite(loss):
            self._first = self._best = loss
        if self._is_bad(loss):
            self._go_back()
        elif loss <= self._best:
            self._best, self._kept = loss, self._state()

    def _is_bad(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return True
        room = max((self._edit.limit - 1) * abs(self._best), _GAINED * (self._first - self._best))
        return loss - self._best > room

    def _variables(self) -> list[Any]:
        return [*self._model.weights, *self._model.optimizer.variables]

    def _state(self) -> list[NDArray[Any]]:
        return [np.array(ops.convert_to_numpy(v)) for v in self._variables()]

    def _go_back(self) -> None:
        rate = float(ops.convert_to_numpy(self._model.optimizer.learning_rate)) * self._edit.shrink
        assert self._kept is not None
        for variable, value in zip(self._variables(), self._kept, strict=True):
            variable.assign(value)
        self._model.optimizer.learning_rate = rate


class StateResetCallback(TrainingCallback):
    """Makes the optimizer forget; see `ResetOptimizerState`. It is a fresh one at the start in any case."""

    def __init__(self, model: Any, edit: ResetOptimizerState) -> None:
        self._model, self._every = model, edit.every

    def begin_epoch(self, epoch: int) -> None:
        """Put the optimizer's variables back to what a fresh one has, but for the learning rate."""
        if not self._every or not epoch or epoch % self._every:
            return
        own = getattr(self._model.optimizer, "inner_optimizer", self._model.optimizer)
        fresh = type(own).from_config(own.get_config())
        fresh.build(own._trainable_variables)
        for variable, value in zip(own.variables, fresh.variables, strict=True):
            if variable is not own._learning_rate:
                variable.assign(ops.convert_to_numpy(value))


class RedoCallback(TrainingCallback):
    """Draws the incoming weights of idle units anew; see `ReviveUnits`.

    Args:
        bench: The model.
        edit: Which layers, and what is idle.
        epochs: Planned epochs.
        batch: Returns the inputs of some training samples, or None where the budget allows no pass over them.
    """

    def __init__(self, bench: Editor, edit: ReviveUnits, epochs: int, batch: Callable[[], Any]) -> None:
        self._model, self._threshold, self._until = bench.model, edit.threshold, _LAST * epochs
        self._batch = batch
        self._places = revivable(bench, edit.layers)

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Run a batch, and draw the idle units of each layer anew."""
        inputs = self._batch() if epoch + 1 <= self._until else None
        if inputs is None:
            return
        for place, size in enumerate(self._sizes(inputs)):
            part = self._places[place][1]
            if size is not None and size.shape == (int(part.layer.kernel.shape[-1]),):
                self._revive(part, size <= self._threshold * size.mean())

    def _sizes(self, inputs: Any) -> list[NDArray[np.float64] | None]:
        """Return the mean size of each unit's output, layer by layer."""
        found: list[NDArray[np.float64] | None] = [None] * len(self._places)
        owns = [vars(carrier).get("call") for carrier, _ in self._places]
        for place, (carrier, part) in enumerate(self._places):
            vars(carrier)["call"] = _noting(carrier.call, _unit_axis(part.layer), place, found)
        try:
            training = {"training": False} if self._model._call_has_training_arg else {}
            self._model(inputs, **training)
        finally:
            for (carrier, _), own in zip(self._places, owns, strict=True):
                vars(carrier).pop("call") if own is None else vars(carrier).update(call=own)
        return found

    def _revive(self, part: Part, idle: NDArray[np.bool_]) -> None:
        if not idle.any():
            return
        own = getattr(self._model.optimizer, "inner_optimizer", self._model.optimizer)
        kernel, bias = part.layer.kernel, getattr(part.layer, "bias", None)
        fresh = keras.initializers.get(initializer_for(part.info.activation))(kernel.shape, kernel.dtype)
        _set(kernel, idle, np.asarray(ops.convert_to_numpy(fresh)))
        if bias is not None:
            _set(bias, idle, np.zeros(bias.shape))
        for variable in [kernel, *([] if bias is None else [bias])]:
            for state in _states(own, variable):
                _set(state, idle, np.zeros(state.shape))


def revivable(bench: Editor, names: tuple[str, ...]) -> list[tuple[Any, Part]]:
    """Return the layers that apply an activation, and the one dense or convolution layer each that feeds it.

    Raises:
        ConfigError: If none of the names is a layer that may be touched.
    """
    return [
        (carrier, below[0])
        for carrier, below in carriers(bench, bench.named(names))
        if len(below) == 1 and below[0].info.kind in ("dense", "conv") and below[0].info.hidden
        if _kernel_by_units(below[0].layer)
    ]


def _kernel_by_units(layer: Any) -> bool:
    kernel = getattr(layer, "kernel", None)
    units = getattr(layer, "units", getattr(layer, "filters", None))
    return isinstance(kernel, keras.Variable) and kernel.shape[-1] == units


def _unit_axis(layer: Any) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def _noting(call: Callable[..., Any], axis: int, place: int, found: list[Any]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        output = call(*args, **kwargs)
        values = np.abs(np.asarray(ops.convert_to_numpy(output), np.float64))
        found[place] = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis]).mean(0)
        return output

    return noted


def _states(optimizer: Any, variable: Any) -> list[Any]:
    """Return what an optimizer remembers of a variable, of its shape."""
    own = optimizer._trainable_variables
    place = next((i for i, v in enumerate(own) if v is variable), None)
    lists = [value for value in vars(optimizer).values() if isinstance(value, list) and len(value) == len(own)]
    found = [] if place is None else [value[place] for value in lists]
    return [v for v in found if isinstance(v, keras.Variable) and v is not variable and v.shape == variable.shape]


def _set(variable: Any, units: NDArray[np.bool_], values: NDArray[Any]) -> None:
    """Give the units of a variable (its last axis) other values."""
    variable.assign(np.where(units, values, ops.convert_to_numpy(variable)).astype(variable.dtype))
