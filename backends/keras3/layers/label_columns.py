"""A layer that maps the outputs of a model to the columns of their labels."""

from __future__ import annotations

from typing import Any

import keras
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

    def call(self, inputs: Any) -> Any:
        """Return the outputs in their columns."""
        outputs = {label: output for output, label in enumerate(self.labels)}
        empty = ops.full_like(inputs[..., :1], self.fill)
        columns = (outputs.get(label) for label in range(self.labels[-1] + 1))
        return ops.concatenate([empty if k is None else inputs[..., k : k + 1] for k in columns], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the output."""
        return (*input_shape[:-1], self.labels[-1] + 1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "labels": self.labels, "fill": self.fill}
