"""Update clipping for Adam and its variants: StableAdamW."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from autotrainer.errors import ConfigError

__all__ = ["clip_updates", "has_second_moment"]

_ADAM_VARIANTS = (keras.optimizers.Adam, keras.optimizers.Nadam)


def has_second_moment(kind: type) -> bool:
    """Return whether an optimizer class divides by the root of a mean of squared gradients, as Adam does."""
    return issubclass(kind, _ADAM_VARIANTS) and not issubclass(kind, keras.optimizers.Adamax)


def clip_updates(optimizer: Any) -> None:
    """Divide each tensor's update by max(1, RMS of gradient ÷ root of the second moment), from now on.

    StableAdamW: Wortsman et al. 2023 (2304.13013), algorithm 2. It is set on this object and is not part of
    its configuration.

    Args:
        optimizer: Adam or one of its variants, before its first step.

    Raises:
        ConfigError: If the optimizer keeps no second moment.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not has_second_moment(type(inner)):
        raise ConfigError(f"{type(inner).__name__} keeps no second moment, as Adam does")
    original_update_step = inner.update_step

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        second_moment = inner._velocities[inner._get_variable_index(variable)]
        square = ops.square(ops.cast(gradient, variable.dtype))
        beta = ops.cast(inner.beta_2, variable.dtype)
        steps = ops.cast(inner.iterations + 1, variable.dtype)
        corrected = (beta * second_moment + (1 - beta) * square) / (1 - ops.power(beta, steps))
        floor = max(float(inner.epsilon) ** 2, float(keras.config.epsilon()) ** 4)
        excess = ops.sqrt(ops.mean(square / ops.maximum(corrected, floor)))
        original_update_step(gradient, variable, ops.cast(learning_rate, variable.dtype) / ops.maximum(excess, 1.0))

    def one_by_one(gradients: Any, variables: Any, learning_rate: Any) -> None:
        for gradient, variable in zip(gradients, variables, strict=True):
            inner.update_step(gradient, variable, learning_rate)

    vars(inner)["update_step"] = update_step
    if keras.backend.backend() == "torch":  # which would update all variables in one call
        vars(inner)["_backend_update_step"] = one_by_one
