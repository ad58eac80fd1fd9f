"""A layer that maps the outputs of a model to the columns of their labels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

__all__ = ["LabelColumns"]


@keras.saving.register_keras_serializable(package="autotrainer")
class LabelColumns(keras.layers.Layer):  # type: ignore[misc]
    """Maps each output to the column of its label.

    Args:
        labels: Output k belongs to the k-th label; further outputs are dropped.
        fill: Value of columns without a label.
        **options: Options of every Keras layer.
    """

    def __init__(self, labels: Any, fill: float = -1e4, **options: Any) -> None:
        super().__init__(**options)
        self.labels, self.fill = [int(label) for label in labels], float(fill)

    def build(self, input_shape: Any) -> None:
        """Check that there is an output for each label.

        Raises:
            ValueError: If there are fewer.
        """
        if input_shape[-1] is not None and input_shape[-1] < len(self.labels):
            raise ValueError(f"{len(self.labels)} labels need as many outputs, and the model has {input_shape[-1]}")

    def call(self, inputs: Any) -> Any:
        """Return the outputs in their columns."""
        sources = np.zeros(self.labels[-1] + 1, "int32")  # of each column: 0 for none
        sources[self.labels] = range(1, len(self.labels) + 1)
        return ops.take(ops.concatenate([ops.full_like(inputs[..., :1], self.fill), inputs], axis=-1), sources, axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the output."""
        return (*input_shape[:-1], self.labels[-1] + 1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "labels": self.labels, "fill": self.fill}
