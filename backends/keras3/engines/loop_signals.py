"""What happens in training loops that call the parts of Keras themselves, in the whole process.

Some functions of Keras and TensorFlow are patched while there is a listener: losses, `tf.GradientTape.gradient`,
``Optimizer.apply``, the start of a `tf.data.Dataset`, and calls of `tf.function`. Nothing is sent while ``fit`` or
``train_on_batch`` runs: these trainings are observed through the model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, Protocol
from weakref import WeakSet, ref

import keras

from autotrainer.adapter.function_patch import FunctionPatch
from autotrainer.backends.keras3.engines.compiled_step import CompiledStep, TracedFunction
from autotrainer.backends.keras3.engines.loop_recorder import LoopRecorder
from autotrainer.backends.keras3.model.loss_kinds import LOSS_FUNCTIONS
from autotrainer.backends.keras3.model.optimizers import gradients_of_call, materialize
from autotrainer.backends.keras3.runtime.called_losses import loss_of_call, public_functions
from autotrainer.backends.keras3.runtime.tensorflow_functions import (
    converted,
    function_class,
    has_signature,
    trace_first,
    uses_xla,
)
from autotrainer.monitoring.tracebacks import passes_on

__all__ = [
    "LoopListener",
    "add_listener",
    "enter_keras",
    "executes_eagerly",
    "is_listening",
    "latest_dataset",
    "leave_keras",
    "listeners",
    "note_call",
    "remove_listener",
]


class LoopListener(Protocol):
    """Receives the signals of eager code and of code that is being traced; it must not raise."""

    def model_evaluated(self, model: Any) -> None:
        """Keras is about to evaluate a model, or to predict with it."""

    def model_trains(self, model: Any) -> None:
        """A model is about to take a step in ``train_on_batch``."""

    def loss_called(self, loss: Any, targets: Any, outputs: Any, value: Any) -> None:
        """A Keras loss was called."""

    def differentiated(self, tape: Any, target: Any, sources: Any) -> None:
        """A gradient tape is about to compute the gradients of a target."""

    def derived(self, target: Any, sources: Any, results: Any) -> None:
        """A tape has computed gradients with respect to tensors that are no variables."""

    def applying(self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        """An optimizer is about to take gradients."""

    def applied(self, optimizer: Any) -> None:
        """The optimizer has taken them."""

    def dataset_started(self, dataset: Any) -> None:
        """The loop begins to read a dataset."""

    def wants_trace(self, function: Any) -> bool:
        """Return whether a compiled function that has not been called yet is traced before its first call."""

    def function_traced(self, function: Any, traced: TracedFunction) -> None:
        """A compiled function that calls an optimizer has been traced, and called at most once."""

    def recorder_for(self, function: Any, traced: TracedFunction) -> LoopRecorder | None:
        """Return what records the step that a compiled function is about to take; None if it is not sampled."""

    def step_recorded(self, recorder: LoopRecorder, recorded: dict[str, Any] | None) -> None:
        """The step has been taken; ``recorded`` is None if it could not be recorded, as ``recorder.reason`` says."""

    def function_called(self, function: Any, traced: TracedFunction, result: Any) -> None:
        """A compiled function has been called."""


class _State:
    """Where the process is."""

    def __init__(self) -> None:
        self.in_keras = 0  # calls of ``fit`` and ``train_on_batch`` that are going on
        self.in_apply = False
        self.in_loss = False  # a loss of Keras is being computed, from functions of TensorFlow
        self.function: TracedFunction | None = None  # the compiled function that is being called
        self.dataset: ref[Any] | None = None  # the one that has started last


_state = _State()
_listeners: list[ref[Any]] = []
_patches: list[FunctionPatch] = []
_functions: WeakSet[Any] = WeakSet()  # compiled functions that were called
_ENTROPIES = {
    "sparse_softmax_cross_entropy_with_logits": keras.losses.sparse_categorical_crossentropy,
    "softmax_cross_entropy_with_logits": keras.losses.categorical_crossentropy,
    "sigmoid_cross_entropy_with_logits": keras.losses.binary_crossentropy,
}
"""Losses of `tf.nn`, and the functions of Keras that compute the same from logits."""
_TRACED = "_autotrainer_traced"
"""Attribute of these that holds what their traces have shown: it refers to the objects of the user, like they do."""


def add_listener(listener: LoopListener) -> None:
    """Send the signals to a listener, as long as it exists or until `remove_listener`."""
    _listeners.append(ref(listener, _discard))
    if _patches:
        return
    try:
        for owner, name, wrap in _replacements():
            _patches.append(FunctionPatch(owner, name, wrap))
    except BaseException:
        remove_listener(listener)
        raise


def _replacements() -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Yield what is replaced: the owner of a function, its name, and what makes the replacement."""
    for name in ("fit", "train_on_batch"):
        yield keras.Model, name, _wrap_training
    for name in ("evaluate", "predict", "test_on_batch", "predict_on_batch"):
        yield keras.Model, name, _wrap_evaluation
    yield keras.losses.Loss, "__call__", _wrap_loss
    for module, name in public_functions(LOSS_FUNCTIONS):
        yield module, name, _wrap_loss_function
    yield keras.optimizers.Optimizer, "apply", _wrap_apply
    yield keras.optimizers.LossScaleOptimizer, "apply", _wrap_apply
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        for name, same in _ENTROPIES.items():
            yield tf.nn, name, functools.partial(_wrap_entropy, loss=functools.partial(same, from_logits=True))
        yield tf.GradientTape, "gradient", _wrap_gradient
        yield tf.data.Dataset, "__iter__", _wrap_dataset
        yield function_class(), "__call__", _wrap_function


def remove_listener(listener: LoopListener) -> None:
    """Send a listener no more signals."""
    for reference in [each for each in _listeners if each() is listener]:
        _discard(reference)


def _discard(reference: ref[Any]) -> None:
    _listeners.remove(reference)
    if not _listeners:
        for patch in reversed(_patches):
            patch.undo()
        _patches.clear()
        for function in _functions:
            vars(function).pop(_TRACED, None)
        _functions.clear()


def listeners() -> list[Any]:
    """Return all listeners."""
    return [listener for reference in _listeners if (listener := reference()) is not None]


def is_listening() -> bool:
    """Return whether the code that runs now is that of the user's loop, not of ``fit`` and the like."""
    return not _state.in_keras


def latest_dataset() -> Any:
    """Return the dataset that the loop has begun to read last; None if there is none."""
    return None if _state.dataset is None else _state.dataset()


def enter_keras() -> None:
    """Send nothing until `leave_keras`: a ``fit`` is going on that has begun before there was a listener."""
    _state.in_keras += 1


def leave_keras() -> None:
    """Register the end of that ``fit``."""
    _state.in_keras -= 1


def note_call(model: Any) -> None:
    """Note that the compiled function that is being traced calls a model."""
    if _state.function is not None:
        _state.function.models.add(id(model))


def executes_eagerly() -> bool:
    """Return whether the code that runs now is not being traced."""
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    return bool(tf.executing_eagerly())


def _send(signal: str, *values: Any) -> None:
    for listener in listeners():
        with suppress(Exception):
            getattr(listener, signal)(*values)


def _wrap_training(original: Callable[..., Any]) -> Callable[..., Any]:
    single = original.__name__ == "train_on_batch"

    @passes_on
    def train(model: Any, *args: Any, **kwargs: Any) -> Any:
        if single and not _state.in_keras:
            _send("model_trains", model)
        _state.in_keras += 1
        try:
            return original(model, *args, **kwargs)
        finally:
            _state.in_keras -= 1

    return train


def _wrap_evaluation(original: Callable[..., Any]) -> Callable[..., Any]:
    @passes_on
    def evaluate(model: Any, *args: Any, **kwargs: Any) -> Any:
        if not _state.in_keras:
            _send("model_evaluated", model)
        _state.in_keras += 1
        try:
            return original(model, *args, **kwargs)
        finally:
            _state.in_keras -= 1

    return evaluate


def _wrap_loss(original: Callable[..., Any]) -> Callable[..., Any]:
    @passes_on
    def __call__(loss: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - its name in tracebacks
        value = _outermost(original, loss, *args, **kwargs)
        if not _state.in_keras:
            _note_loss(loss)
            _send("loss_called", *loss_of_call(loss, args, kwargs), value)
        return value

    return __call__


def _note_loss(loss: Any) -> None:
    if _state.function is not None and _state.function.loss is None:
        _state.function.loss = loss


def _wrap_loss_function(original: Callable[..., Any]) -> Callable[..., Any]:
    @passes_on
    def loss(*args: Any, **kwargs: Any) -> Any:
        value = _outermost(original, *args, **kwargs)
        if not _state.in_keras:
            function, targets, outputs = loss_of_call(original, args, kwargs)
            _note_loss(function)
            _send("loss_called", function, targets, outputs, value)
        return value

    return loss


@passes_on
def _outermost(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a loss of Keras; the losses of `tf.nn` that it calls are no losses of the loop."""
    outer, _state.in_loss = _state.in_loss, True
    try:
        return original(*args, **kwargs)
    finally:
        _state.in_loss = outer


def _wrap_entropy(original: Callable[..., Any], *, loss: Any) -> Callable[..., Any]:
    """Return a loss of `tf.nn` that is sent as the loss of Keras that computes the same."""

    @passes_on
    def entropy(*args: Any, **kwargs: Any) -> Any:
        value = original(*args, **kwargs)
        if not _state.in_keras and not _state.in_loss:
            given = dict(zip(("labels", "logits"), args, strict=False), **kwargs)
            _note_loss(loss)
            _send("loss_called", loss, given.get("labels"), given.get("logits"), value)
        return value

    return entropy


def _wrap_gradient(original: Callable[..., Any]) -> Callable[..., Any]:
    @passes_on
    def gradient(tape: Any, *args: Any, **kwargs: Any) -> Any:
        if not _state.in_keras:
            given = dict(zip(("target", "sources"), args, strict=False), **kwargs)
            if _state.function is not None:
                _state.function.differentiates = True
            _send("differentiated", tape, given.get("target"), given.get("sources"))
        result = original(tape, *args, **kwargs)
        if not _state.in_keras and not _are_variables(given.get("sources")):
            _send("derived", given.get("target"), given.get("sources"), result)
        return result

    return gradient


def _are_variables(sources: Any) -> bool:
    """Return whether the first of some sources is a variable, in a list or by itself."""
    return hasattr(sources[0] if isinstance(sources, list | tuple) and sources else sources, "handle")


def _wrap_apply(original: Callable[..., Any]) -> Callable[..., Any]:
    @passes_on
    def apply(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        if _state.in_keras or _state.in_apply:
            return original(optimizer, *args, **kwargs)
        args, kwargs = tuple(map(materialize, args)), {name: materialize(value) for name, value in kwargs.items()}
        with suppress(Exception):
            gradients, variables = gradients_of_call(optimizer, args, kwargs)
            if _state.function is not None:
                _note_apply(_state.function, optimizer, variables)
            _send("applying", optimizer, gradients, variables)
        _state.in_apply = True
        try:
            result = original(optimizer, *args, **kwargs)
        finally:
            _state.in_apply = False
        _send("applied", optimizer)
        return result

    return apply


def _note_apply(function: TracedFunction, optimizer: Any, variables: Sequence[Any]) -> None:
    import tensorflow as tf

    before = function.applies.get(id(optimizer), (optimizer, ()))[1]
    function.applies[id(optimizer)] = optimizer, tuple({id(v): v for v in (*before, *variables)}.values())
    outer = getattr(tf.compat.v1.get_default_graph(), "outer_graph", None)
    function.nested |= getattr(outer, "outer_graph", None) is not None


def _wrap_dataset(original: Callable[..., Any]) -> Callable[..., Any]:
    @passes_on
    def __iter__(dataset: Any) -> Any:  # noqa: N807 - its name in tracebacks
        if not _state.in_keras and executes_eagerly():
            _state.dataset = ref(dataset)
            _send("dataset_started", dataset)
        return original(dataset)

    return __iter__


def _wrap_function(original: Callable[..., Any]) -> Callable[..., Any]:
    import tensorflow as tf

    executing_eagerly, functions_run_eagerly = tf.executing_eagerly, tf.config.functions_run_eagerly

    @passes_on
    def __call__(function: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - its name in tracebacks
        if not executing_eagerly():
            inlined = CompiledStep.tracing and not (uses_xla(function) or has_signature(function))
            body = converted(function) if inlined else None
            return original(function, *args, **kwargs) if body is None else body(*args, **kwargs)
        if _state.in_keras or _state.function is not None or functions_run_eagerly():
            return original(function, *args, **kwargs)
        traced = vars(function).get(_TRACED)
        if traced is None:
            traced = vars(function)[_TRACED] = TracedFunction()
            _functions.add(function)
            _trace(function, traced, args, kwargs)
        _state.function = traced
        try:
            postponed, traced.postponed = traced.postponed, False
            samples = _samples(function, traced) if traced.applies and not postponed else []
            if samples:
                step = traced.step(function, [recorder for _, recorder in samples])
                result, recorded = step.run(functools.partial(original, function), args, kwargs)
            else:
                result, recorded = original(function, *args, **kwargs), []
        finally:
            _state.function = None
        _announce(function, traced)
        _send("function_called", function, traced, result)
        for (listener, recorder), values in zip(samples, recorded, strict=True):
            with suppress(Exception):
                listener.step_recorded(recorder, values)
        return result

    return __call__


def _samples(function: Any, traced: TracedFunction) -> list[tuple[Any, LoopRecorder]]:
    samples = []
    for listener in listeners():
        with suppress(Exception):
            recorder = listener.recorder_for(function, traced)
            if recorder is not None:
                samples.append((listener, recorder))
    return samples


def _trace(function: Any, traced: TracedFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Trace a function before its first call, so that its first step can be measured; the trace serves that call."""
    wanted = [listener.wants_trace(function) for listener in listeners()]
    if not any(wanted):
        return
    before, started = dict(vars(function)), perf_counter()
    _state.function = traced
    try:
        traced.postponed = not trace_first(function, args, kwargs)
        if not traced.postponed:
            function.get_concrete_function(*args, **kwargs)
    except Exception:  # noqa: BLE001 - the call that follows traces it again, as if it had not been traced
        vars(function).clear()
        vars(function).update(before)
        return
    finally:
        _state.function = None
        traced.seconds = perf_counter() - started
    _announce(function, traced)


def _announce(function: Any, traced: TracedFunction) -> None:
    if traced.applies and not traced.announced:
        traced.announced = True
        _send("function_traced", function, traced)
