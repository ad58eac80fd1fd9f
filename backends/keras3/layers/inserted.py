"""Layers that edits insert into a model. Once this module is imported, models with them can be loaded from files."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["BOUNDED", "ColumnScaling", "CosineAttention", "CosineGroupedAttention", "Residual", "bound"]


@keras.saving.register_keras_serializable(package="autotrainer")
class Residual(keras.layers.Wrapper):  # type: ignore[misc]
    """A residual block around a layer: x + gate · activation(layer(x)). The gate starts at 0.

    Args:
        layer: A layer whose output has the shape of its input.
        activation: Activation layer applied to its output, if the layer itself has no activation.
    """

    def __init__(self, layer: Any, activation: Any = None, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.activation = activation

    def build(self, input_shape: Any = None) -> None:
        """Create the gate."""
        super().build(input_shape)
        self.gate = self.add_weight(shape=(), initializer="zeros", name="gate")

    def call(self, inputs: Any) -> Any:
        """Return the inputs plus the gated output of the layer."""
        outputs = self.layer(inputs)
        return inputs + self.gate * (outputs if self.activation is None else self.activation(outputs))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "activation": keras.saving.serialize_keras_object(self.activation)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Rebuild it from its arguments."""
        activation = keras.saving.deserialize_keras_object(config["activation"], custom_objects=custom_objects)
        return super().from_config({**config, "activation": activation}, custom_objects=custom_objects)


@keras.saving.register_keras_serializable(package="autotrainer")
class ColumnScaling(keras.layers.Normalization):  # type: ignore[misc]
    """A normalization with known mean and variance, in front of which some columns become logarithms.

    Args:
        log_center: Centers of the logarithms asinh((x - center) / scale), one for each feature; or empty.
        log_scale: Their scales, 0 for features without; or empty.
        dropped: Features that are always 0.
        options: Arguments of `keras.layers.Normalization`.
    """

    def __init__(self, *, log_center: Any = (), log_scale: Any = (), dropped: Any = (), **options: Any) -> None:
        super().__init__(**options)
        self.log_center, self.log_scale = list(map(float, log_center)), list(map(float, log_scale))
        self.dropped = list(map(int, dropped))

    def call(self, inputs: Any) -> Any:
        """Return the scaled inputs."""
        values = keras.ops.cast(inputs, self.compute_dtype)
        if self.log_scale:
            scales = [scale or 1.0 for scale in self.log_scale]
            center, scale = (keras.ops.convert_to_tensor(each, values.dtype) for each in (self.log_center, scales))
            logarithmic = keras.ops.convert_to_tensor([scale > 0 for scale in self.log_scale])
            values = keras.ops.where(logarithmic, keras.ops.arcsinh((values - center) / scale), values)
        values = super().call(values)
        if not self.dropped:
            return values
        kept = keras.ops.convert_to_tensor([column not in self.dropped for column in range(int(values.shape[-1]))])
        return keras.ops.where(kept, values, keras.ops.zeros_like(values))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        own = {"log_center": self.log_center, "log_scale": self.log_scale, "dropped": self.dropped}
        return {**super().get_config(), **own}


class _Bounded:
    """Attention with logits limit · cos(query, key) in each head, whatever the weights."""

    limit: float

    def __init__(self, *args: Any, limit: float = 10.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limit = limit

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "limit": self.limit}  # type: ignore[misc]

    def _compute_attention(self, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Attend with queries and keys of unit length, shape (…, features of a head)."""
        size = self.limit * float(query.shape[-1]) ** 0.5  # Keras divides by this root
        query, key = size * keras.ops.normalize(query, axis=-1), keras.ops.normalize(key, axis=-1)
        return self._attend(query, key, value, *args, **kwargs)

    _attend: Any


@keras.saving.register_keras_serializable(package="autotrainer")
class CosineAttention(_Bounded, keras.layers.MultiHeadAttention):  # type: ignore[misc]
    """`keras.layers.MultiHeadAttention` with bounded logits."""

    _attend = keras.layers.MultiHeadAttention._compute_attention


@keras.saving.register_keras_serializable(package="autotrainer")
class CosineGroupedAttention(_Bounded, keras.layers.GroupQueryAttention):  # type: ignore[misc]
    """`keras.layers.GroupQueryAttention` with bounded logits."""

    _attend = keras.layers.GroupQueryAttention._compute_attention


BOUNDED = {
    keras.layers.MultiHeadAttention: CosineAttention,
    keras.layers.GroupQueryAttention: CosineGroupedAttention,
}
"""Attention layer class -> its subclass with bounded logits."""


def bound(layer: Any, limit: float) -> None:
    """Bound the logits of an attention layer in place, before it is traced: its weights stay."""
    layer.__class__ = BOUNDED[type(layer)]
    layer.limit = limit
