"""What edits put around the steps of a Keras optimizer: clipped updates, and steps that are left out."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from autotrainer.edits import SkipUpdates
from autotrainer.errors import ConfigError

__all__ = ["clip_updates", "has_second_moment", "skip_updates"]

_KIN = (keras.optimizers.Adam, keras.optimizers.Nadam)


def has_second_moment(kind: type) -> bool:
    """Say whether an optimizer class divides by the root of a mean of squared gradients, as Adam does."""
    return issubclass(kind, _KIN) and not issubclass(kind, keras.optimizers.Adamax)


def clip_updates(optimizer: Any) -> None:
    """Divide each tensor's update by max(1, RMS of gradient ÷ root of the second moment), from now on.

    StableAdamW: Wortsman et al. 2023 (2304.13013), algorithm 2. It is set on this object, and no part of its
    configuration.

    Args:
        optimizer: Adam or one of its kin, before its first step.

    Raises:
        ConfigError: If the optimizer has no second moment.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not has_second_moment(type(inner)):
        raise ConfigError(f"{type(inner).__name__} divides by no second moment")
    own = inner.update_step

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        second = inner._velocities[inner._get_variable_index(variable)]
        square = ops.square(ops.cast(gradient, variable.dtype))
        beta = ops.cast(inner.beta_2, variable.dtype)
        steps = ops.cast(inner.iterations + 1, variable.dtype)
        now = (beta * second + (1 - beta) * square) / (1 - ops.power(beta, steps))
        floor = max(float(inner.epsilon) ** 2, float(keras.config.epsilon()) ** 4)
        excess = ops.sqrt(ops.mean(square / ops.maximum(now, floor)))
        own(gradient, variable, ops.cast(learning_rate, variable.dtype) / ops.maximum(excess, 1.0))

    def one_by_one(gradients: Any, variables: Any, learning_rate: Any) -> None:
        for gradient, variable in zip(gradients, variables, strict=True):
            inner.update_step(gradient, variable, learning_rate)

    vars(inner)["update_step"] = update_step
    if keras.backend.backend() == "torch":  # it updates all variables in one call of its own
        vars(inner)["_backend_update_step"] = one_by_one


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
