"""The epochs of a watched ``fit``: the callback that reports them, their values in the logs, arguments of ``fit``."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, Protocol

import keras

from autotrainer.adapter.callables import ignores_arguments
from autotrainer.backends.keras3.model.losses import compiled_losses
from autotrainer.backends.keras3.watching.loss_tracker import loss_names

__all__ = ["EpochCallback", "EpochValues", "data_size", "running_fit", "schedule_callback", "with_callback"]

_USUAL_NAMES = {
    "acc": "accuracy",
    "binary_accuracy": "accuracy",
    "categorical_accuracy": "accuracy",
    "sparse_categorical_accuracy": "accuracy",
}
_ACCURACIES = (
    keras.metrics.Accuracy,
    keras.metrics.BinaryAccuracy,
    keras.metrics.CategoricalAccuracy,
    keras.metrics.SparseCategoricalAccuracy,
)


class EpochListener(Protocol):
    """Receives the epochs of a ``fit``."""

    def start_fit(self, epochs: int | None, steps: int | None) -> None:
        """A ``fit`` begins; ``epochs`` is where it ends, ``steps`` the steps per epoch, each None if unknown."""

    def start_epoch(self, epoch: int) -> None:
        """An epoch begins; ``epoch`` is 0-based, as ``fit`` counts."""

    def start_test(self) -> None:
        """An evaluation within the ``fit`` begins."""

    def end_test(self) -> None:
        """An evaluation within the ``fit`` has ended."""

    def end_epoch(self, logs: Mapping[str, Any]) -> None:
        """An epoch has ended, validation included."""


class EpochCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports epochs to a listener. It has no batch hooks, which slow Keras down."""

    def __init__(self, listener: EpochListener) -> None:
        super().__init__()
        self._listener = listener

    def on_train_begin(self, logs: Any = None) -> None:
        """Report the planned length."""
        params = self.params or {}
        self._listener.start_fit(params.get("epochs"), params.get("steps"))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Report that an epoch begins."""
        self._listener.start_epoch(epoch)

    def on_test_begin(self, logs: Any = None) -> None:
        """Report that an evaluation begins."""
        self._listener.start_test()

    def on_test_end(self, logs: Any = None) -> None:
        """Report that an evaluation has ended."""
        self._listener.end_test()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Report the logs of an epoch."""
        self._listener.end_epoch(logs or {})


class EpochValues:
    """Reads the values of epochs from their logs.

    With a custom training step, Keras logs the value of a metric even if the step never updates it (the value is then
    0), or returns another value under the same name. Such a value is omitted, or replaced by what the last step
    returned, as Keras does for names without a metric.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._unused: frozenset[str] | None = None
        self._unused_in_tests: frozenset[str] = frozenset()

    def after_call(self, logs: Any) -> frozenset[str]:
        """Find out, after the first call of the train function, which metrics it does not update.

        Args:
            logs: Logs that the call returned.

        Returns:
            Names in these logs without a measured value.
        """
        if self._unused is None:
            custom = type(self._model).train_step is not keras.Model.train_step
            self._unused = frozenset(_unused(self._model)) if custom else frozenset()
        values = logs if isinstance(logs, Mapping) else {}
        return frozenset(name for name in self._unused if not _number(values.get(name)))

    def after_test(self) -> None:
        """Find out which metrics an evaluation has not updated."""
        custom = type(self._model).test_step is not keras.Model.test_step
        self._unused_in_tests = frozenset(_unused(self._model)) if custom else frozenset()

    def of(self, logs: Mapping[str, Any], last: Any) -> dict[str, float]:
        """Return the numbers in the logs of an epoch, by their usual names.

        Args:
            logs: The logs.
            last: Logs of the last call of the train function.
        """
        last = last if isinstance(last, Mapping) else {}
        unused = self._unused or frozenset()
        values = {name: last.get(name) if name in unused else value for name, value in logs.items()}
        unknown = {name for name in unused if not _number(values.get(name))}
        unknown |= {f"val_{name}" for name in self._unused_in_tests if not _number(values.get(f"val_{name}"))}
        measured = {name: value for name, value in values.items() if name not in unknown}
        return _by_usual_names(measured, _usual_names(self._model))

    def of_evaluation(self, result: Any) -> dict[str, float]:
        """Return the values that ``evaluate`` has returned, by their usual names: one number, or numbers or logs."""
        if isinstance(result, Mapping):
            logs = dict(result)
        else:
            values = list(result) if isinstance(result, list | tuple) else [result]
            logs = dict(zip(("loss",) if len(values) == 1 else _result_names(self._model), values, strict=False))
        return _by_usual_names({f"val_{name}": value for name, value in logs.items()}, _usual_names(self._model))


def _unused(model: Any) -> Iterator[str]:
    """Yield the names of means that have not been updated since their reset."""
    if keras.backend.backend() == "jax":
        return  # its metrics hold no values while it trains
    for metric in _flattened(model.metrics):
        if isinstance(metric, keras.metrics.Mean) and not float(keras.ops.convert_to_numpy(metric.count)):
            yield metric.name


def _flattened(metrics: Any) -> Iterator[Any]:
    for metric in metrics:
        inner = getattr(metric, "metrics", None)  # those passed to compile() are inside one
        if isinstance(inner, list | tuple):
            yield from _flattened(inner)
        else:
            yield metric


def _result_names(model: Any) -> list[str]:
    """Return the names of the values that ``evaluate`` returns as a list, in Keras' order."""
    measured = list(model.get_metrics_result())
    names = [metric.name for metric in _flattened(model.metrics) if metric.name in measured]
    return names + sorted(set(measured) - set(names))


def _usual_names(model: Any) -> dict[str, str]:
    """Return the names in logs of accuracies, and with several outputs those of the loss and accuracies of one.

    With several outputs Keras puts the name of an output before those of its metrics.
    """
    accuracies = {metric.name: "accuracy" for metric in _flattened(model.metrics) if isinstance(metric, _ACCURACIES)}
    names = {**_USUAL_NAMES, "accuracy": "accuracy", **accuracies}
    losses = compiled_losses(model)
    output = f"{losses[0].name}_" if losses else ""
    names |= {output + name: usual for name, usual in names.items()}
    return names | ({f"{output}loss": "data_loss"} if len(losses) > 1 else {})


def _by_usual_names(logs: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    """Return the numbers in logs by their usual names, and a single loss under ``loss``."""
    values: dict[str, float] = {}
    losses = loss_names(logs)
    names = {**names, losses[0]: "loss"} if len(losses) == 1 else names
    for name, value in logs.items():
        measured = _number(value)
        if measured is None:
            continue
        prefix = "val_" if name.startswith("val_") else ""
        values.setdefault(prefix + names.get(name.removeprefix("val_"), name.removeprefix("val_")), measured)
    return values


def with_callback(
    fit: Callable[..., Any], callback: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a ``fit`` with one more callback at the end.

    Raises:
        TypeError: If ``fit`` takes no callbacks, or does not accept the arguments.
    """
    signature = inspect.signature(fit)
    bound = signature.bind(*args, **kwargs)
    passed = _callbacks_in(bound)
    if isinstance(passed, keras.callbacks.CallbackList):
        callback.set_params(passed.params)
        callback.set_model(passed.model)
        passed.callbacks.append(callback)
        return args, kwargs
    callbacks = [*(keras.tree.flatten(passed) if passed else []), callback]
    if "callbacks" in signature.parameters:
        bound.arguments["callbacks"] = callbacks
        return bound.args, bound.kwargs
    return args, {**kwargs, "callbacks": callbacks}


def schedule_callback(fit: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the class of the Keras callback of a ``fit`` that changes the learning rate; empty if there is none.

    A `keras.callbacks.LearningRateScheduler` whose function is seen to be constant changes nothing.
    """
    passed = _callbacks_in(inspect.signature(fit).bind(*args, **kwargs))
    callbacks = (
        passed.callbacks if isinstance(passed, keras.callbacks.CallbackList) else keras.tree.flatten(passed or [])
    )
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.LearningRateScheduler):
            if not ignores_arguments(callback.schedule, returned=1):
                return type(callback).__name__
        elif isinstance(callback, keras.callbacks.ReduceLROnPlateau):
            return type(callback).__name__
    return ""


def running_fit(model: Any) -> dict[str, Any]:
    """Return the arguments of the ``fit`` of a model that is going on, without those left out; empty if unknown.

    They are read from the frame of Keras' own ``fit``, after Keras has split off ``validation_split``: callbacks are
    told neither the data nor the other callbacks.
    """
    names = inspect.signature(keras.Model.fit).parameters
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        local = frame.f_locals if frame.f_code.co_name == "fit" else {}
        if local.get("self") is model and isinstance(local.get("callbacks"), keras.callbacks.CallbackList):
            return {name: local[name] for name in names if local.get(name) is not None and name != "self"}
        frame = frame.f_back
    return {}


def _callbacks_in(bound: inspect.BoundArguments) -> Any:
    return bound.arguments.get("callbacks", bound.kwargs.get("callbacks"))


def data_size(fit: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return the rows of the training data and the batch size, as far as the arguments of ``fit`` show."""
    arguments = inspect.signature(fit).bind(*args, **kwargs).arguments
    arguments = {**arguments, **arguments.get("kwargs", {})}
    first = next(iter(keras.tree.flatten(arguments.get("x"))), None)
    shape = getattr(first, "shape", None)
    if not shape or not isinstance(shape[0], int) or hasattr(first, "batch"):
        return None, arguments.get("batch_size")
    rows = shape[0]
    if arguments.get("validation_data") is None and arguments.get("validation_split"):
        rows = math.floor(rows * (1 - arguments["validation_split"]))
    return rows, arguments.get("batch_size") or 32


def _number(value: Any) -> float | None:
    """Return a value of logs as a float; None if it is not a number."""
    if isinstance(value, bool | str) or value is None or getattr(value, "shape", ()) not in ((), (1,)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):  # a metric may return anything
        return None
