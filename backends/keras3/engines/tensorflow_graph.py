"""What a graph of TensorFlow lets be seen without changing what it computes. Imports TensorFlow only where used."""

from __future__ import annotations

from typing import Any

import keras

__all__ = [
    "UnobservableError",
    "apart",
    "draws_by_itself",
    "has_accelerator",
    "of_this_graph",
    "operation_of",
    "raise_if_random",
]

_RANDOM_WITH_STATE = frozenset(
    {
        "RandomUniform",
        "RandomUniformInt",
        "RandomStandardNormal",
        "ParameterizedTruncatedNormal",
        "TruncatedNormal",
        "RandomGamma",
        "RandomPoissonV2",
        "RandomShuffle",
        "Multinomial",
    }
)
"""TensorFlow operations that keep their random state in a compiled function, and so would repeat it in a second."""


_REGROUPED = frozenset({"Mul", "Add", "AddV2", "AddN"})
"""TensorFlow operations that its graph optimizer puts into another order, and so rounds otherwise, as long as their
results have no further use (`MinimizeBroadcasts` and others in grappler/optimizers/arithmetic_optimizer.cc)."""


class UnobservableError(Exception):
    """Raised while a step is traced: it can't be recorded without changing the training."""


def has_accelerator() -> bool:
    """Say whether TensorFlow has another device than the CPU."""
    import tensorflow as tf

    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def operation_of(tensor: Any) -> Any:
    """Return the operation of a graph that made a tensor; None for a tensor with a value."""
    import tensorflow as tf

    return None if isinstance(tensor, tf.Variable) or tf.executing_eagerly() else getattr(tensor, "op", None)


def raise_if_random(model: Any) -> None:
    """Refuse a graph that draws random numbers from a state of its own.

    Called before anything is traced that makes variables: those of an unfinished trace would never get values.

    Raises:
        UnobservableError: If it does.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if not tf.executing_eagerly():
        operations = tf.compat.v1.get_default_graph().get_operations()
        names = sorted({operation.type for operation in operations} & _RANDOM_WITH_STATE)
        if names:
            raise UnobservableError(f"{model.name} draws random numbers inside the compiled step ({', '.join(names)})")


def draws_by_itself(model: Any, batch: tuple[Any, ...]) -> bool:
    """Say whether a training step, compiled, draws random numbers from a state of its own.

    Such a state begins anew where another training is seeded, which drops compiled functions from TensorFlow's cache.

    Args:
        model: The model, compiled, whose training step has been taken before.
        batch: Inputs, targets and sample weights, if there are any.
    """
    if keras.backend.backend() != "tensorflow" or model.run_eagerly:
        return False
    import tensorflow as tf

    graph = tf.function(lambda *data: model.train_step(data)).get_concrete_function(*batch).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return any(node.op in _RANDOM_WITH_STATE for node in nodes)


def of_this_graph(seen: dict[str, Any]) -> dict[str, Any]:
    """Drop what belongs to an inner graph (a loop's body) and can't leave it."""
    import tensorflow as tf

    if tf.executing_eagerly():
        return seen
    graph = tf.compat.v1.get_default_graph()
    return {key: value for key, value in seen.items() if getattr(value, "graph", None) is graph}


def apart(value: Any, known: dict[Any, Any]) -> Any:
    """Return a tensor of a graph, or a copy of it where giving out the tensor itself would change the rounding.

    Args:
        value: A tensor.
        known: Copies made so far, by the reference of what they copy.
    """
    import tensorflow as tf

    made_by = operation_of(value)
    if made_by is None or made_by.type not in _REGROUPED:
        return value
    if value.ref() not in known:
        given = [apart(source, known) for source in made_by.inputs]
        make = getattr(tf.raw_ops, made_by.type)
        with tf.compat.v1.get_default_graph()._attr_scope(_distinct()):
            known[value.ref()] = make(inputs=given) if made_by.type == "AddN" else make(x=given[0], y=given[1])
    return known[value.ref()]


def _distinct() -> dict[str, Any]:
    """Return an attribute that keeps the graph optimizer from merging a copy with what it copies."""
    from tensorflow.core.framework.attr_value_pb2 import AttrValue

    return {"_autotrainer_copy": AttrValue(b=True)}
