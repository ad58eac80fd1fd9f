"""What this backend needs of `tf.function`, its graphs and tapes, private names too. TensorFlow is imported only where
used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["converted", "function_class", "has_signature", "is_recording", "trace_first", "uses_xla", "with_body"]
__all__ += ["batches_before_take", "depends_on", "operation_of", "shuffles", "variable_watcher"]


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


def has_signature(function: Any) -> bool:
    """Return whether a function converts its arguments to tensors of given types."""
    return function.input_signature is not None


def trace_first(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Trace a function that has not been called; return whether its variables, if it makes any, have values.

    The initial value of a variable may depend on the arguments: only the first call gives it. That call then goes on
    from this trace, as the user's objects hold the variables of this one.
    """
    with function._lock:
        if function._variable_creation_config is not None:
            return True
        before, initializers = dict(vars(function)), list[Any]()
        function._initialize(args, kwargs, add_initializers_to=initializers)
        try:
            function._initialize_uninitialized_variables(initializers)
        except Exception:  # noqa: BLE001 - `UnliftableError`, which is not public
            after = dict(vars(function))

            def resume(*_: Any, add_initializers_to: list[Any]) -> None:
                del vars(function)["_initialize"]
                vars(function).update(after)
                add_initializers_to.extend(initializers)

            vars(function).clear()
            vars(function).update(before, _initialize=resume)
            return False
    return True


def uses_xla(function: Any) -> bool:
    """Return whether a function is compiled by XLA."""
    return bool(function._jit_compile)


def batches_before_take(data: Any) -> int | None:
    """Return the length of the `tf.data` set of which ``take(1)`` leaves one element; None if there is none.

    Args:
        data: What ``fit`` gets. A further ``repeat``, ``cache``, ``map`` or ``prefetch`` does not change the answer.
    """
    while hasattr(data, "element_spec") and hasattr(data, "_inputs"):
        sources = data._inputs()
        if len(sources) != 1:
            return None
        if type(data).__name__.strip("_") == "TakeDataset" and int(data.cardinality()) == 1:
            whole = int(sources[0].cardinality())
            return whole if whole > 1 else None
        data = sources[0]
    return None


def shuffles(data: Any) -> bool:
    """Return whether a `tf.data` set shuffles what becomes its rows: not the files or series that it takes apart."""
    waiting = [data]
    while waiting:
        data = waiting.pop()
        name = type(data).__name__
        if hasattr(data, "element_spec") and hasattr(data, "_inputs"):
            if "Shuffle" in name:
                return True
            if not any(kind in name for kind in ("FlatMap", "Interleave", "Window")):
                waiting.extend(data._inputs())
    return False


def is_recording() -> bool:
    """Return whether a gradient tape records what is computed now."""
    from tensorflow.python.eager import record

    return bool(record.could_possibly_record())


def variable_watcher() -> Any:
    """Return a context manager that collects the trainable variables read in it: its ``watched_variables()``."""
    from tensorflow.python.eager import record

    return record.VariableWatcher()


def operation_of(tensor: Any) -> Any:
    """Return the graph operation that computes a tensor; None for an eager tensor."""
    import tensorflow as tf

    return None if isinstance(tensor, tf.Variable) or tf.executing_eagerly() else getattr(tensor, "op", None)


def depends_on(result: Any, sources: Iterable[Any], beyond: Iterable[Any] = ()) -> bool | None:
    """Return whether a tensor of a graph is computed from any of others of that graph; None if one of them is in none.

    Operations that call functions, such as loops, count as using all their inputs.

    Args:
        result: The tensor.
        sources: The others.
        beyond: Tensors whose own inputs do not count.
    """
    sources, beyond = list(sources), list(beyond)
    if not sources or any(operation_of(tensor) is None for tensor in (result, *sources, *beyond)):
        return None
    wanted, ends = {tensor.ref() for tensor in sources}, {tensor.ref() for tensor in beyond}
    waiting, seen = [result], set()
    while waiting:
        tensor = waiting.pop()
        if tensor.ref() in wanted:
            return True
        if tensor.ref() not in ends and tensor.op not in seen:
            seen.add(tensor.op)
            waiting.extend(tensor.op.inputs)
    return False
