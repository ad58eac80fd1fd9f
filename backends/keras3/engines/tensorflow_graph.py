"""Reading tensors of a TensorFlow graph without changing what it computes. TensorFlow is imported only where used."""

from __future__ import annotations

from typing import Any

import keras

from autotrainer.backends.keras3.engines.patching import RecordingError
from autotrainer.backends.keras3.runtime.tensorflow_functions import operation_of

__all__ = [
    "copy_if_regrouped",
    "has_accelerator",
    "has_stateful_random_ops",
    "raise_if_stateful_random",
    "tensors_of_this_graph",
]

_STATEFUL_RANDOM = frozenset(
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
"""TensorFlow operations that keep their random state in the compiled function: a second one repeats the numbers."""

_REGROUPED = frozenset({"Mul", "Add", "AddV2", "AddN"})
"""TensorFlow operations that its graph optimizer reorders, which changes the rounding, as long as their results have no
other use (`MinimizeBroadcasts` and others in grappler/optimizers/arithmetic_optimizer.cc)."""


def has_accelerator() -> bool:
    """Return whether TensorFlow has another device than the CPU."""
    import tensorflow as tf

    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def raise_if_stateful_random(model: Any) -> None:
    """Refuse a graph with operations that keep their own random state.

    Call it before anything is traced that creates variables: those of an unfinished trace would never get values.

    Raises:
        RecordingError: If there are any.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if not tf.executing_eagerly():
        operations = tf.compat.v1.get_default_graph().get_operations()
        names = sorted({operation.type for operation in operations} & _STATEFUL_RANDOM)
        if names:
            raise RecordingError(f"{model.name} draws random numbers inside the compiled step ({', '.join(names)})")


def has_stateful_random_ops(model: Any, batch: tuple[Any, ...]) -> bool:
    """Return whether a compiled training step has random operations that keep their own state.

    Such a state is reset when another training is seeded, which drops compiled functions from TensorFlow's cache.

    Args:
        model: The compiled model, after at least one training step.
        batch: Inputs, targets and sample weights, if there are any.
    """
    if keras.backend.backend() != "tensorflow" or model.run_eagerly:
        return False
    import tensorflow as tf

    graph = tf.function(lambda *data: model.train_step(data)).get_concrete_function(*batch).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return any(node.op in _STATEFUL_RANDOM for node in nodes)


def tensors_of_this_graph(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return only the tensors of the current graph: those of an inner one (a loop's body) can't leave it."""
    import tensorflow as tf

    if tf.executing_eagerly():
        return recorded
    graph = tf.compat.v1.get_default_graph()
    return {key: value for key, value in recorded.items() if getattr(value, "graph", None) is graph}


def copy_if_regrouped(value: Any, copies: dict[Any, Any]) -> Any:
    """Return a tensor of a graph, or a copy of it if returning the tensor itself would change the rounding.

    Args:
        value: A tensor.
        copies: Copies made so far: reference of the original -> copy.
    """
    import tensorflow as tf

    operation = operation_of(value)
    if operation is None or operation.type not in _REGROUPED:
        return value
    if value.ref() not in copies:
        inputs = [copy_if_regrouped(source, copies) for source in operation.inputs]
        make = getattr(tf.raw_ops, operation.type)
        with tf.compat.v1.get_default_graph()._attr_scope(_not_merged()):
            copies[value.ref()] = make(inputs=inputs) if operation.type == "AddN" else make(x=inputs[0], y=inputs[1])
    return copies[value.ref()]


def _not_merged() -> dict[str, Any]:
    """Return an attribute that keeps the graph optimizer from merging a copy with its original."""
    from tensorflow.core.framework.attr_value_pb2 import AttrValue

    return {"_autotrainer_copy": AttrValue(b=True)}
