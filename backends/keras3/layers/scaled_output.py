"""A layer that makes an output in the units of its targets. Once imported, models with it can be loaded."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["ScaledOutput"]


@keras.saving.register_keras_serializable(package="autotrainer")
class ScaledOutput(keras.layers.Wrapper):  # type: ignore[misc]
    """The layer of an output that was trained on standardized targets: layer(x) · std + mean.

    Args:
        layer: The layer.
        mean: Mean of the targets.
        std: Their standard deviation, > 0.
        options: Arguments of `keras.layers.Layer`; the name is that of the layer, which names the output.
    """

    def __init__(self, layer: Any, mean: float, std: float, **options: Any) -> None:
        super().__init__(layer, **options)
        self.mean, self.std = float(mean), float(std)

    def call(self, inputs: Any) -> Any:
        """Return the output in the units of the targets."""
        outputs = keras.ops.cast(self.layer(inputs), keras.config.floatx())  # half precision has too small a range
        return outputs * self.std + self.mean

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the layer's output."""
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "mean": self.mean, "std": self.std}
