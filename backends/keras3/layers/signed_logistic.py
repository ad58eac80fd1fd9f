"""The logistic loss for targets in {-1, 1}."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["SignedLogistic"]


@keras.saving.register_keras_serializable(package="autotrainer")
class SignedLogistic(keras.losses.Loss):  # type: ignore[misc]
    """Logistic loss for targets in {-1, 1}: log(1 + exp(-target × logit)).

    Args:
        from_logits: Whether predictions are logits; otherwise they are probabilities of the target 1.
        reduction: As for every Keras loss.
        name: Name of the loss.
    """

    def __init__(
        self, from_logits: bool = True, reduction: str = "sum_over_batch_size", name: str = "signed_logistic"
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss, row by row."""
        y_pred = ops.convert_to_tensor(y_pred)
        targets = ops.reshape(ops.cast(y_true, y_pred.dtype), ops.shape(y_pred))
        values = ops.binary_crossentropy((targets + 1) / 2, y_pred, from_logits=self.from_logits)
        return ops.mean(values, axis=-1) if len(values.shape) > 1 else values

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "from_logits": self.from_logits}
