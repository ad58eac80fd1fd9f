"""The private names of `tf.function` that this backend needs. TensorFlow is imported only where used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["converted", "function_class", "is_recording", "uses_xla", "with_body"]


def function_class() -> type:
    """Return the class of compiled functions."""
    import tensorflow as tf

    return type(tf.function(lambda: None))


def converted(function: Any) -> Callable[..., Any]:
    """Return the Python function of a compiled one, with its control flow converted as tracing converts it."""
    import tensorflow as tf

    body: Callable[..., Any] = function.python_function
    if not function._autograph:
        return body
    autograph = tf.__internal__.autograph
    return autograph.tf_convert(body, autograph.control_status_ctx(), user_requested=True)  # type: ignore[no-any-return]


def with_body(function: Any, body: Callable[..., Any]) -> Any:
    """Return a compiled function with the options of another one; ``body`` is traced as it is."""
    result = function._clone(body)
    result._autograph = False
    return result


def uses_xla(function: Any) -> bool:
    """Return whether a function is compiled by XLA."""
    return bool(function._jit_compile)


def is_recording() -> bool:
    """Return whether a gradient tape records what is computed now."""
    from tensorflow.python.eager import record

    return bool(record.could_possibly_record())
