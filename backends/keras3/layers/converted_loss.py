"""A loss that gets outputs and targets in another form than model and data give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from autotrainer.backends.keras3.layers.inserted import logarithm
from autotrainer.backends.keras3.runtime.keras_internals import LossFunctionWrapper
from autotrainer.edits import Edit, EncodeTargets, ReshapeTargets, ScaleTargets, edit_from_dict
from autotrainer.errors import ConfigError

__all__ = ["ConvertedLoss"]


@keras.saving.register_keras_serializable(package="autotrainer")
class ConvertedLoss(keras.losses.Loss):  # type: ignore[misc]
    """A loss over converted outputs and targets.

    Args:
        loss: Loss of Keras that takes the converted ones: object, function or name.
        edits: What `autotrainer.training.data_edits.conversions` returned, with fitted numbers; or their plain values.
        name: Name of the loss; that of ``loss`` if None.
    """

    def __init__(self, loss: Any, edits: Sequence[Any], name: str | None = None, **_: Any) -> None:
        inner = keras.losses.get(loss)
        inner = inner if isinstance(inner, keras.losses.Loss) else LossFunctionWrapper(inner, name=inner.__name__)
        super().__init__(name=name or inner.name, reduction=inner.reduction)
        self.inner = inner
        self.edits = tuple(edit if isinstance(edit, Edit) else edit_from_dict(edit) for edit in edits)
        self.wrapped_loss = loss

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss, row by row."""
        return self.inner.call(*self.taken(y_true, y_pred))

    def taken(self, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
        """Return targets and outputs as the loss inside takes them: what is observed of a training."""
        y_pred = ops.convert_to_tensor(y_pred)
        y_true = ops.convert_to_tensor(y_true)
        for edit in self.edits:
            if isinstance(edit, EncodeTargets):
                y_true = _encoded(y_true, y_pred, edit)
            elif isinstance(edit, ReshapeTargets):
                y_true = ops.reshape(ops.cast(y_true, y_pred.dtype), ops.shape(y_pred))
            elif isinstance(edit, ScaleTargets):
                y_true, y_pred = _scaled(ops.cast(y_true, y_pred.dtype), edit), _scaled(y_pred, edit)
        return y_true, y_pred

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        inner = keras.saving.serialize_keras_object(self.inner)
        return {"loss": inner, "edits": [edit.to_dict() for edit in self.edits], "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ConvertedLoss:
        """Rebuild it from its arguments."""
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


def _scaled(values: Any, edit: ScaleTargets) -> Any:
    if edit.logarithm:
        values = logarithm(values, list(edit.log_center), list(edit.log_scale))
    mean, std = (ops.convert_to_tensor(list(numbers), values.dtype) for numbers in (edit.mean, edit.std))
    return (values - mean) / std


def _encoded(y_true: Any, y_pred: Any, edit: EncodeTargets) -> Any:
    to = edit.to
    if to == "zero_one":
        low, high = edit.labels
        return (ops.cast(y_true, y_pred.dtype) - low) / (high - low)
    if to == "signed":
        return 2 * ops.cast(y_true, y_pred.dtype) - 1
    rows, classes = ops.shape(y_pred)[:-1], y_pred.shape[-1]
    if to == "one_hot":
        return ops.one_hot(ops.reshape(ops.cast(y_true, "int32"), rows), classes, dtype=y_pred.dtype)
    if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] == classes and classes > 1:
        return ops.argmax(y_true, axis=-1)
    if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] != 1:
        raise ConfigError(f"targets with {y_true.shape[-1]} columns are no class indices")
    return ops.reshape(ops.cast(y_true, "int32"), rows)
