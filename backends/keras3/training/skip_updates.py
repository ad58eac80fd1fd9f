"""Skipping the updates of a Keras optimizer whose gradient is not finite or far larger than before."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from autotrainer.backends.keras3.model.optimizers import inner_optimizer
from autotrainer.edits import SkipUpdates

__all__ = ["skip_updates"]


def skip_updates(model: Any, optimizer: Any, edit: SkipUpdates) -> None:
    """Skip steps whose gradient is not finite or far larger than before; see `SkipUpdates`.

    A step is taken and undone inside the training function, which then needs no branch. This is set on the optimizer
    object before the training function is made; JAX, whose steps are pure functions, does not allow it.

    Args:
        model: The model; running statistics that are not finite are restored together with the weights.
        optimizer: Its optimizer.
        edit: The allowed deviation, and how many of the last norms count.
    """
    inner = inner_optimizer(optimizer)
    original_apply = inner.apply
    norms = keras.Variable(ops.zeros((edit.window,), "float32"), trainable=False)
    norm_count = keras.Variable(0, dtype="int32", trainable=False)
    statistics = [v for v in model.non_trainable_variables if str(v.dtype).startswith(("float", "bfloat"))]
    last_finite = [keras.Variable(ops.convert_to_numpy(v), dtype=v.dtype, trainable=False) for v in statistics]

    def apply(grads: Any, trainable_variables: Any = None) -> None:
        gradients = list(grads)
        variables = list(inner._trainable_variables if trainable_variables is None else trainable_variables)
        if not inner.built:
            inner.build(variables)
        norm = _norm(gradients)
        is_usual = _is_usual(norm, norms, norm_count, edit)
        changed = [v for v in inner.variables if v is not inner._learning_rate] + variables
        before = [ops.copy(ops.convert_to_tensor(v)) for v in changed]
        original_apply(gradients, variables)
        for variable, old in zip(changed, before, strict=True):
            variable.assign(ops.where(is_usual, ops.convert_to_tensor(variable), old))
        for variable, old in zip(statistics, last_finite, strict=True):
            is_finite_now = ops.all(ops.isfinite(variable))
            variable.assign(ops.where(ops.logical_or(is_usual, is_finite_now), ops.convert_to_tensor(variable), old))
            old.assign(ops.where(is_usual, ops.convert_to_tensor(variable), ops.convert_to_tensor(old)))
        is_finite = ops.isfinite(norm)
        slot = ops.equal(ops.arange(edit.window, dtype="int32"), ops.mod(norm_count, edit.window))
        norms.assign(ops.where(ops.logical_and(slot, is_finite), norm, norms))
        norm_count.assign(norm_count + ops.cast(is_finite, "int32"))

    vars(inner)["apply"] = apply


def _norm(gradients: list[Any]) -> Any:
    """Return the L2 norm of all gradients, of sparse ones by their rows."""
    dense = [g.values if hasattr(g, "dense_shape") else g for g in gradients if g is not None]
    squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in dense]
    return ops.sqrt(sum(squares[1:], squares[0]))


def _is_usual(norm: Any, norms: Any, norm_count: Any, edit: SkipUpdates) -> Any:
    """Return whether a norm is finite, and either not far above the last ones or one of the first."""
    stored = ops.minimum(ops.convert_to_tensor(norm_count), edit.window)
    mask = ops.cast(ops.arange(edit.window, dtype="int32") < stored, "float32")
    number = ops.cast(stored, "float32")
    mean = ops.sum(mask * norms) / ops.maximum(number, 1.0)
    variance = ops.sum(mask * ops.square(norms - mean)) / ops.maximum(number - 1.0, 1.0)
    within = norm <= mean + edit.deviations * ops.sqrt(variance)
    return ops.logical_and(ops.isfinite(norm), ops.logical_or(number < edit.window / 2, within))
