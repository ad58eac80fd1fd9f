"""What can be told of the tensors that the JAX engine meets while it traces a step. Imports JAX only where used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import keras
from keras.src import backend

from autotrainer.backends.keras3.engines.patching import noting, patched

__all__ = ["noting_functions", "of_this_trace"]

_FUNCTIONS = (
    (backend.nn, "softmax", "Softmax"),
    (backend.nn, "log_softmax", "LogSoftmax"),
    (backend.nn, "sigmoid", "Sigmoid"),
    (backend.nn, "relu", "Relu"),
    (backend.nn, "elu", "Elu"),
    (backend.nn, "softplus", "Softplus"),
    (backend.numpy, "tanh", "Tanh"),
)


def of_this_trace(seen: dict[str, Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Return the values of tensors met inside a step, without what belongs to an inner function (a loop's body).

    Inside `jax.value_and_grad` a tensor comes with its derivative, and only its value may leave. Both are attributes
    that JAX documents for the authors of transformations alone.

    Args:
        seen: The tensors.
        arguments: What the step was called with.
    """
    import jax

    level = next((v._trace for v in keras.tree.flatten(arguments) if isinstance(v, jax.core.Tracer)), None)
    values = {key: _value(tensor) for key, tensor in seen.items()}
    return {key: v for key, v in values.items() if not isinstance(v, jax.core.Tracer) or v._trace is level}


def _value(tensor: Any) -> Any:
    while hasattr(tensor, "tangent") and hasattr(tensor, "primal"):
        tensor = tensor.primal
    return tensor


@contextmanager
def noting_functions(note: Callable[[str, Any], None], fail: Callable[[Exception], None]) -> Iterator[None]:
    """Tell which function of the engine makes which tensor: tensors of JAX do not know it, those of others do.

    Args:
        note: Takes the name of a function, as TensorFlow calls it, and what it returns.
        fail: Takes an exception of our own code.
    """
    with ExitStack() as stack:
        for module, name, operation in _FUNCTIONS:
            noted = noting(getattr(module, name), partial(note, operation), fail)
            stack.enter_context(patched(module, name, noted))
        yield
