"""Steps that are left out: of a Keras optimizer whose gradient is not finite or far above those before."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from autotrainer.edits import SkipUpdates

__all__ = ["skip_updates"]


def skip_updates(model: Any, optimizer: Any, edit: SkipUpdates) -> None:
    """Leave out steps whose gradient is not finite or far above those before; see `SkipUpdates`.

    A step is taken and taken back inside the training function, so that it needs no branch there. It is set on the
    optimizer object, before the training function is made; not on JAX, whose steps are pure functions.

    Args:
        model: The model; running statistics that are not finite are put back with the weights.
        optimizer: Its optimizer.
        edit: How far outside, and how many of the last norms count.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    own = inner.apply
    norms = keras.Variable(ops.zeros((edit.window,), "float32"), trainable=False)
    seen = keras.Variable(0, dtype="int32", trainable=False)
    statistics = [v for v in model.non_trainable_variables if str(v.dtype).startswith(("float", "bfloat"))]
    kept = [keras.Variable(ops.convert_to_numpy(v), dtype=v.dtype, trainable=False) for v in statistics]

    def apply(grads: Any, trainable_variables: Any = None) -> None:
        gradients = list(grads)
        variables = list(inner._trainable_variables if trainable_variables is None else trainable_variables)
        if not inner.built:
            inner.build(variables)
        norm = _norm(gradients)
        fine = _is_usual(norm, norms, seen, edit)
        watched = [v for v in inner.variables if v is not inner._learning_rate] + variables
        before = [ops.copy(ops.convert_to_tensor(v)) for v in watched]
        own(gradients, variables)
        for variable, old in zip(watched, before, strict=True):
            variable.assign(ops.where(fine, ops.convert_to_tensor(variable), old))
        for variable, old in zip(statistics, kept, strict=True):
            whole = ops.all(ops.isfinite(variable))
            variable.assign(ops.where(ops.logical_or(fine, whole), ops.convert_to_tensor(variable), old))
            old.assign(ops.where(fine, ops.convert_to_tensor(variable), ops.convert_to_tensor(old)))
        counts = ops.isfinite(norm)
        place = ops.equal(ops.arange(edit.window, dtype="int32"), ops.mod(seen, edit.window))
        norms.assign(ops.where(ops.logical_and(place, counts), norm, norms))
        seen.assign(seen + ops.cast(counts, "int32"))

    vars(inner)["apply"] = apply


def _norm(gradients: list[Any]) -> Any:
    """Return the L2 norm of all gradients; those of embeddings by their rows."""
    dense = [g.values if hasattr(g, "dense_shape") else g for g in gradients if g is not None]
    squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in dense]
    return ops.sqrt(sum(squares[1:], squares[0]))


def _is_usual(norm: Any, norms: Any, seen: Any, edit: SkipUpdates) -> Any:
    """Say whether a norm is finite and not far above the last ones, or too few of these are known."""
    known = ops.minimum(ops.convert_to_tensor(seen), edit.window)
    counted = ops.cast(ops.arange(edit.window, dtype="int32") < known, "float32")
    number = ops.cast(known, "float32")
    mean = ops.sum(counted * norms) / ops.maximum(number, 1.0)
    variance = ops.sum(counted * ops.square(norms - mean)) / ops.maximum(number - 1.0, 1.0)
    within = norm <= mean + edit.deviations * ops.sqrt(variance)
    return ops.logical_and(ops.isfinite(norm), ops.logical_or(number < edit.window / 2, within))
