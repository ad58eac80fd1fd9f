"""Reinitializing idle units during a training: ReDo, Sokar et al. 2023 (2302.12902)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from autotrainer.backends.keras3.engines.patching import patched
from autotrainer.backends.keras3.model.model_calls import call_model
from autotrainer.backends.keras3.model.optimizers import inner_optimizer
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.backends.keras3.surgery.hidden_edits import hidden_activations
from autotrainer.backends.keras3.training.callbacks import TrainingCallback
from autotrainer.edits import ReviveUnits, initializer_for

__all__ = ["RedoCallback", "revivable"]


class RedoCallback(TrainingCallback):
    """Reinitializes the incoming weights of idle units; see `ReviveUnits`.

    Args:
        editor: The model.
        edit: The layers, and the threshold of idle units.
        epochs: Planned epochs.
        sample: Returns the inputs of some training samples; None if the budget allows no forward pass.
    """

    def __init__(self, editor: Editor, edit: ReviveUnits, epochs: int, sample: Callable[[], Any]) -> None:
        self._model, self._threshold, self._last_epoch = editor.model, edit.threshold, edit.revival_share * epochs
        self._sample = sample
        self._layers = revivable(editor, edit.layers)

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Run a forward pass, and reinitialize the idle units of each layer."""
        inputs = self._sample() if epoch + 1 <= self._last_epoch else None
        if inputs is None:
            return
        for (_, watched), size in zip(self._layers, self._mean_outputs(inputs), strict=True):
            if size is not None and size.shape == (int(watched.layer.kernel.shape[-1]),):
                self._reinitialize(watched, size <= self._threshold * size.mean())

    def _mean_outputs(self, inputs: Any) -> list[NDArray[np.float64] | None]:
        """Return the mean absolute output of each unit, by layer; None for a layer that is not called."""
        sizes: list[NDArray[np.float64] | None] = [None] * len(self._layers)
        with ExitStack() as stack:
            for index, (owner, watched) in enumerate(self._layers):
                recording = _recording(owner.call, _unit_axis(watched.layer), index, sizes)
                stack.enter_context(patched(owner, "call", recording))
            call_model(self._model, inputs)
        return sizes

    def _reinitialize(self, watched: WatchedLayer, idle: NDArray[np.bool_]) -> None:
        if not idle.any():
            return
        optimizer = inner_optimizer(self._model.optimizer)
        kernel, bias = watched.layer.kernel, getattr(watched.layer, "bias", None)
        fresh = keras.initializers.get(initializer_for(watched.info.activation))(kernel.shape, kernel.dtype)
        _set(kernel, idle, np.asarray(ops.convert_to_numpy(fresh)))
        if bias is not None:
            _set(bias, idle, np.zeros(bias.shape))
        for variable in [kernel, *([] if bias is None else [bias])]:
            for state in _optimizer_state(optimizer, variable):
                _set(state, idle, np.zeros(state.shape))


def revivable(editor: Editor, names: tuple[str, ...]) -> list[tuple[Any, WatchedLayer]]:
    """Return the layers that apply an activation, each with the single dense or convolutional layer that feeds it.

    Raises:
        ConfigError: If none of the names is a layer that may be changed.
    """
    return [
        (owner, sources[0])
        for owner, sources in hidden_activations(editor, editor.named(names))
        if len(sources) == 1 and sources[0].info.kind in ("dense", "conv") and sources[0].info.hidden
        if _kernel_by_units(sources[0].layer)
    ]


def _kernel_by_units(layer: Any) -> bool:
    kernel = getattr(layer, "kernel", None)
    units = getattr(layer, "units", getattr(layer, "filters", None))
    return isinstance(kernel, keras.Variable) and kernel.shape[-1] == units


def _unit_axis(layer: Any) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def _recording(call: Callable[..., Any], axis: int, index: int, sizes: list[Any]) -> Callable[..., Any]:
    def recorded_call(*args: Any, **kwargs: Any) -> Any:
        output = call(*args, **kwargs)
        values = np.abs(np.asarray(ops.convert_to_numpy(output), np.float64))
        sizes[index] = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis]).mean(0)
        return output

    return recorded_call


def _optimizer_state(optimizer: Any, variable: Any) -> list[Any]:
    """Return the optimizer's state variables of a variable that have its shape."""
    trained = optimizer._trainable_variables
    index = next((i for i, v in enumerate(trained) if v is variable), None)
    lists = [value for value in vars(optimizer).values() if isinstance(value, list) and len(value) == len(trained)]
    states = [] if index is None else [value[index] for value in lists]
    return [v for v in states if isinstance(v, keras.Variable) and v is not variable and v.shape == variable.shape]


def _set(variable: Any, units: NDArray[np.bool_], values: NDArray[Any]) -> None:
    """Set the values of units, along the last axis of a variable."""
    variable.assign(np.where(units, values, ops.convert_to_numpy(variable)).astype(variable.dtype))
