"""The part of watching that goes through `keras.Model.fit`'s own arguments: one callback, and the planned length."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import keras

from autotrainer.backends.keras3.watching.loss_tracker import loss_names

__all__ = ["EpochCallback", "canonical", "data_size", "has_schedule", "number", "with_callback"]

_NAMES = {
    "acc": "accuracy",
    "binary_accuracy": "accuracy",
    "categorical_accuracy": "accuracy",
    "sparse_categorical_accuracy": "accuracy",
}


class EpochListener(Protocol):
    """What is told of the epochs of a ``fit``."""

    def start_fit(self, epochs: int | None, steps: int | None) -> None:
        """A ``fit`` begins; ``epochs`` is the number of its last one, ``steps`` those of an epoch if known."""

    def start_epoch(self, epoch: int) -> None:
        """An epoch begins; 0-based as ``fit`` counts."""

    def start_test(self) -> None:
        """An evaluation within the ``fit`` begins."""

    def end_test(self) -> None:
        """An evaluation within the ``fit`` has ended."""

    def end_epoch(self, logs: Mapping[str, Any]) -> None:
        """An epoch has ended, validation included."""


class EpochCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells of epochs. Has no batch hooks: Keras calls those in a slower way."""

    def __init__(self, listener: EpochListener) -> None:
        super().__init__()
        self._listener = listener

    def on_train_begin(self, logs: Any = None) -> None:
        """Pass on the planned length."""
        params = self.params or {}
        self._listener.start_fit(params.get("epochs"), params.get("steps"))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Pass on that an epoch begins."""
        self._listener.start_epoch(epoch)

    def on_test_begin(self, logs: Any = None) -> None:
        """Pass on that an evaluation begins."""
        self._listener.start_test()

    def on_test_end(self, logs: Any = None) -> None:
        """Pass on that an evaluation has ended."""
        self._listener.end_test()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Pass on what is known at the end of an epoch."""
        self._listener.end_epoch(logs or {})


def canonical(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among the logs of an epoch, accuracies under the one name ``accuracy``.

    The loss of a training step of the user's own is found under ``loss`` too, if it is told under one other name.
    """
    values: dict[str, float] = {}
    losses = loss_names(logs)
    names = {**_NAMES, losses[0]: "loss"} if len(losses) == 1 else _NAMES
    for name, value in logs.items():
        found = number(value)
        if found is None:
            continue
        prefix = "val_" if name.startswith("val_") else ""
        values.setdefault(prefix + names.get(name.removeprefix("val_"), name.removeprefix("val_")), found)
    return values


def with_callback(
    fit: Callable[..., Any], callback: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a ``fit`` with one more callback, the last one.

    Raises:
        TypeError: If ``fit`` takes no callbacks, or the arguments do not fit it.
    """
    signature = inspect.signature(fit)
    bound = signature.bind(*args, **kwargs)
    given = _given_callbacks(bound)
    if isinstance(given, keras.callbacks.CallbackList):
        callback.set_params(given.params)
        callback.set_model(given.model)
        given.callbacks.append(callback)
        return args, kwargs
    callbacks = [*(keras.tree.flatten(given) if given else []), callback]
    if "callbacks" in signature.parameters:
        bound.arguments["callbacks"] = callbacks
        return bound.args, bound.kwargs
    return args, {**kwargs, "callbacks": callbacks}


def has_schedule(fit: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Say whether one of the callbacks given to a ``fit`` is one of Keras' that change the learning rate."""
    given = _given_callbacks(inspect.signature(fit).bind(*args, **kwargs))
    given = given.callbacks if isinstance(given, keras.callbacks.CallbackList) else keras.tree.flatten(given or [])
    kinds = keras.callbacks.LearningRateScheduler | keras.callbacks.ReduceLROnPlateau
    return any(isinstance(callback, kinds) for callback in given)


def _given_callbacks(bound: inspect.BoundArguments) -> Any:
    return bound.arguments.get("callbacks", bound.kwargs.get("callbacks"))


def data_size(fit: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return rows of the training data and samples a batch, as far as the arguments of ``fit`` tell."""
    given = inspect.signature(fit).bind(*args, **kwargs).arguments
    given = {**given, **given.get("kwargs", {})}
    first = next(iter(keras.tree.flatten(given.get("x"))), None)
    shape = getattr(first, "shape", None)
    if not shape or not isinstance(shape[0], int) or hasattr(first, "batch"):
        return None, given.get("batch_size")
    rows = shape[0]
    if given.get("validation_data") is None and given.get("validation_split"):
        rows = math.floor(rows * (1 - given["validation_split"]))
    return rows, given.get("batch_size") or 32


def number(value: Any) -> float | None:
    """Return a value of logs as a number; None if it is none."""
    if isinstance(value, bool | str) or value is None or getattr(value, "shape", ()) not in ((), (1,)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):  # a metric may return anything
        return None
