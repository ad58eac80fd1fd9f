"""Detects the trainings of a script whose own loops call an optimizer.

A training begins where a model is called under a gradient tape while an optimizer has not taken a step yet, or where a
compiled function that calls an optimizer has been traced. The optimizer's first step shows which model it trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakSet, ref

import keras

from autotrainer.adapter.function_patch import FunctionPatch
from autotrainer.adapter.observer import Recorder
from autotrainer.backends.keras3.engines.compiled_step import TracedFunction
from autotrainer.backends.keras3.engines.loop_recorder import LoopRecorder
from autotrainer.backends.keras3.engines.loop_signals import (
    add_listener,
    executes_eagerly,
    is_listening,
    remove_listener,
)
from autotrainer.backends.keras3.watching.custom_loop import CustomLoop, records_gradients
from autotrainer.backends.keras3.watching.find_models import find_models
from autotrainer.backends.keras3.watching.observer import KerasObserver
from autotrainer.monitoring.monitor import is_watched, watched_models
from autotrainer.monitoring.tracebacks import passes_on
from autotrainer.output import logger

__all__ = ["LoopDetector"]

_PATIENCE = 100
"""Steps to wait for an optimizer's first step: the optimizer may be for a later phase."""


class LoopDetector:
    """Detects trainings and opens a monitor for each.

    Attributes:
        watch: Watches a model, in place of the monitors of parts of it; returns None if it is not watched.
    """

    watch: Callable[..., Recorder | None]

    def __init__(self) -> None:
        self._unstepped: WeakSet[Any] = WeakSet()
        self._detected: dict[int, tuple[ref[Any], list[Recorder]]] = {}  # optimizers that have taken a step
        self._early: list[tuple[ref[Any], Recorder]] = []  # watched before a first step
        self._patience = _PATIENCE
        self._in_layer = self._failed = self._reported = False
        self._call_patch: FunctionPatch | None = None
        self._patch = FunctionPatch(keras.optimizers.Optimizer, "__init__", self._wrap_constructor)
        if keras.backend.backend() != "jax":
            add_listener(self)

    def close(self) -> None:
        """Undo all patches."""
        remove_listener(self)
        self._patch.undo()
        self._unstepped.clear()
        self._patch_calls()

    # -- before the first step ------------------------------------------------------------------------------------

    def _wrap_constructor(self, original: Callable[..., None]) -> Callable[..., None]:
        @passes_on
        def __init__(optimizer: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - its name in tracebacks
            original(optimizer, *args, **kwargs)
            with suppress(Exception):
                self._unstepped.add(optimizer)
                self._patience = _PATIENCE
                self._patch_calls()

        return __init__

    def _patch_calls(self) -> None:
        """Patch the call of layers as long as an optimizer waits for its first step."""
        waits = len(self._unstepped) > 0 and keras.backend.backend() != "jax"
        if waits and self._call_patch is None:
            self._call_patch = FunctionPatch(keras.layers.Layer, "__call__", self._wrap_call)
        elif not waits and self._call_patch is not None:
            self._call_patch.undo()
            self._call_patch = None

    def _wrap_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @passes_on
        def __call__(layer: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - its name in tracebacks
            if self._in_layer or not is_listening():
                return original(layer, *args, **kwargs)
            if isinstance(layer, keras.Model) and executes_eagerly() and records_gradients():
                self._guarded(self._watch_early, layer)
            self._in_layer = True
            try:
                return original(layer, *args, **kwargs)
            finally:
                self._in_layer = False

        return __call__

    def _watch_early(self, model: Any) -> None:
        if model.trainable_variables or not model.built:
            self._open(model, early=True)

    def trained_by_keras(self, model: Any) -> None:
        """Keras takes the steps of a model: its optimizer need not be waited for."""
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and optimizer in self._unstepped:
            self._unstepped.discard(optimizer)
            self._patch_calls()

    # -- signals --------------------------------------------------------------------------------------------------

    def applying(self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        """An optimizer is about to take gradients: its first step shows its model."""
        known = self._detected.get(id(optimizer))
        if known is not None and known[0]() is optimizer and not any(monitor.closed for monitor in known[1]):
            return
        if executes_eagerly():
            for loop in self._guarded(self._detect, optimizer, variables) or ():
                loop.applying(optimizer, gradients, variables)

    def applied(self, optimizer: Any) -> None:
        """The optimizer has taken them."""
        if optimizer in self._unstepped:
            self._unstepped.discard(optimizer)
            self._patch_calls()
        elif self._unstepped:
            self._patience -= 1
            if not self._patience:
                self._unstepped.clear()
                self._patch_calls()

    def function_traced(self, function: Any, traced: TracedFunction) -> None:
        """A compiled function that calls optimizers has been traced."""
        for optimizer, variables in traced.applies.values():
            self._guarded(self._detect, optimizer, variables)
            self.applied(optimizer)

    def wants_trace(self, function: Any) -> bool:
        """Return whether a compiled function that has not been called yet is traced before its first call."""
        return len(self._unstepped) > 0

    def recorder_for(self, function: Any, traced: TracedFunction) -> LoopRecorder | None:
        """Return None: the observers record."""
        return None

    def ignore(self, *_: Any) -> None:
        """Ignore a signal."""

    model_evaluated = model_trains = dataset_started = loss_called = differentiated = derived = ignore
    function_called = step_recorded = ignore

    # -- internal -------------------------------------------------------------------------------------------------

    def _detect(self, optimizer: Any, variables: Sequence[Any]) -> list[CustomLoop]:
        """Watch the models that an optimizer trains, unless they are watched; return the loops newly watched."""
        models = find_models(variables)
        if not models and not self._reported:
            self._reported = True
            logger.warning(
                "a training loop of the script's own is not watched: no keras.Model has the weights it trains"
            )
        parts = self._early_parts()
        loops, monitors = [], []
        for model in models:
            replaced = [monitor for part, monitor in parts if part is not model and _contains(model, part)]
            monitor, loop = self._open(model, replaces=replaced)
            monitors += [] if monitor is None else [monitor]
            loops += [] if loop is None else [loop]
        self._detected[id(optimizer)] = ref(optimizer), monitors
        return loops

    def _early_parts(self) -> list[tuple[Any, Recorder]]:
        pairs = [(model(), monitor) for model, monitor in self._early]
        return [(model, monitor) for model, monitor in pairs if model is not None and monitor.history.step < 0]

    def _open(
        self, model: Any, *, early: bool = False, replaces: Sequence[Recorder] = ()
    ) -> tuple[Recorder | None, CustomLoop | None]:
        """Watch a model; return its monitor, and its loop if that is new."""
        if is_watched(model):
            return watched_models.get(model), None
        monitor = self.watch(model, replaces)
        observer = None if monitor is None else monitor.observer
        if not isinstance(observer, KerasObserver):
            return monitor, None
        observer.tentative = True
        if early and monitor is not None:
            self._early.append((ref(model), monitor))
        return monitor, observer.loop

    def _guarded(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:  # noqa: BLE001 - nothing may reach the script
            if not self._failed:
                self._failed = True
                logger.warning("some Keras trainings are not watched; the script goes on: %r", error)
            return None


def _contains(model: Any, part: Any) -> bool:
    return any(layer is part for layer in model._flatten_layers(include_self=False))
