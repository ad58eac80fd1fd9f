"""The losses of Keras that a training step calls by itself, instead of those that it was compiled with."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras

from autotrainer.adapter.function_patch import FunctionPatch
from autotrainer.monitoring.tracebacks import passes_on

__all__ = ["loss_of_call", "losses_called", "public_functions"]

Note = Callable[[Any, Any, Any, Any], None]
"""Takes a loss, or its function, with its targets, its outputs and its value."""


@contextmanager
def losses_called(names: Iterable[str], note: Note, fail: Callable[[Exception], None]) -> Iterator[None]:
    """Report each call of a loss of Keras, or of a function of these names; exceptions of ``note`` go to ``fail``."""

    def wrap(original: Callable[..., Any], *, method: bool) -> Callable[..., Any]:
        @passes_on
        def call(*args: Any, **kwargs: Any) -> Any:
            value = original(*args, **kwargs)
            try:
                loss, rest = (args[0], args[1:]) if method else (original, args)
                note(*loss_of_call(loss, rest, kwargs), value)
            except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
                fail(error)
            return value

        return call

    with ExitStack() as stack:
        patch = FunctionPatch(keras.losses.Loss, "__call__", functools.partial(wrap, method=True))
        stack.callback(patch.undo)
        for module, name in public_functions(names):
            stack.callback(FunctionPatch(module, name, functools.partial(wrap, method=False)).undo)
        yield


def public_functions(names: Iterable[str]) -> Iterator[tuple[Any, str]]:
    """Yield module and name of each loss function that a user can call, of these names."""
    for module in map(sys.modules.get, ("keras.losses", "keras._tf_keras.keras.losses")):  # the latter: ``tf.keras``
        for name in names:
            if hasattr(module, name):
                yield module, name


def loss_of_call(loss: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return a loss or function with the options that it was called with, and its targets and outputs."""
    given = dict(zip(("y_true", "y_pred"), args, strict=False), **kwargs)
    targets, outputs = given.pop("y_true", None), given.pop("y_pred", None)
    if given and not isinstance(loss, keras.losses.Loss):
        loss = functools.partial(loss, **given)
    return loss, targets, outputs
