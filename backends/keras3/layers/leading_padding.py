"""A layer before a model of tokens that puts padding at their start. Once imported, models with it can be loaded."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["LeadingPadding"]


@keras.saving.register_keras_serializable(package="autotrainer")
class LeadingPadding(keras.layers.Layer):  # type: ignore[misc]
    """Moves the padding at the end of token sequences to their start.

    Args:
        token: The token that pads.
        options: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, token: int, **options: Any) -> None:
        super().__init__(autocast=False, **options)  # half precision does not hold all tokens
        self.token = int(token)

    def call(self, inputs: Any) -> Any:
        """Return tokens of shape (rows, positions) with their padding at the start; padding within a row stays."""
        positions = keras.ops.arange(keras.ops.shape(inputs)[1], dtype="int32")
        ends = keras.ops.where(inputs != self.token, positions + 1, 0)
        lengths = keras.ops.max(ends, axis=1, keepdims=True)
        return keras.ops.take_along_axis(inputs, (positions + lengths) % keras.ops.shape(inputs)[1], axis=1)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Return the shape and type of the inputs."""
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "token": self.token}
