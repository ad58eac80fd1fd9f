"""Reading tensors while the JAX engine traces a training step. JAX is imported only where used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import keras

from autotrainer.backends.keras3.engines.patching import observed, patched
from autotrainer.backends.keras3.runtime.keras_internals import backend

__all__ = ["record_functions", "values_of_this_trace"]

_FUNCTIONS = (
    (backend.nn, "softmax", "Softmax"),
    (backend.nn, "log_softmax", "LogSoftmax"),
    (backend.nn, "sigmoid", "Sigmoid"),
    (backend.nn, "relu", "Relu"),
    (backend.nn, "elu", "Elu"),
    (backend.nn, "softplus", "Softplus"),
    (backend.numpy, "tanh", "Tanh"),
)


def values_of_this_trace(recorded: dict[str, Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Return the values of tensors recorded inside a step, without those of an inner function (a loop's body).

    Inside `jax.value_and_grad` a tensor carries its derivative, and only its value may leave. JAX documents both
    attributes for authors of transformations only.

    Args:
        recorded: The tensors, by name.
        arguments: Arguments of the step.
    """
    import jax

    level = next((v._trace for v in keras.tree.flatten(arguments) if isinstance(v, jax.core.Tracer)), None)
    values = {key: _value(tensor) for key, tensor in recorded.items()}
    return {key: v for key, v in values.items() if not isinstance(v, jax.core.Tracer) or v._trace is level}


def _value(tensor: Any) -> Any:
    while hasattr(tensor, "tangent") and hasattr(tensor, "primal"):
        tensor = tensor.primal
    return tensor


@contextmanager
def record_functions(note: Callable[[str, Any], None], fail: Callable[[Exception], None]) -> Iterator[None]:
    """Record which function of the engine returns which tensor: unlike other engines, JAX tensors do not know it.

    Args:
        note: Called with the TensorFlow name of a function and its result.
        fail: Called with an exception of our own code.
    """
    with ExitStack() as stack:
        for module, name, operation in _FUNCTIONS:
            wrapped = observed(getattr(module, name), partial(note, operation), fail)
            stack.enter_context(patched(module, name, wrapped))
        yield
