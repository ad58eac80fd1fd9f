"""Layers that edits insert into a model. Once this module is imported, models with them can be loaded from files."""

from __future__ import annotations

from typing import Any

import keras

from autotrainer.edits import ScaleTargets
from autotrainer.edits.data import LARGEST_LOGARITHM

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
    """A normalization column by column: (t(x) - mean) / std, where t is a logarithm or nothing.

    Unlike its base class it divides by standard deviations of any size, and computes in single precision at least: half
    precision has too small a range.

    Args:
        mean: Means, one for each feature (last axis), or a single one.
        std: Standard deviations, of the same length, > 0.
        log_center: Centers of the logarithms asinh((x - center) / scale), one for each feature; or empty.
        log_scale: Their scales, 0 for features without; or empty.
        dropped: Features that are always 0.
        missing: Column, number that stands for missing values in it, and what takes its place in the scaled inputs.
        options: Arguments of `keras.layers.Layer`.
    """

    def __init__(
        self,
        mean: Any,
        std: Any,
        log_center: Any = (),
        log_scale: Any = (),
        dropped: Any = (),
        missing: Any = (),
        **options: Any,
    ) -> None:
        self.means, self.stds = list(map(float, mean)), list(map(float, std))
        super().__init__(mean=self.means, variance=[1.0] * len(self.stds), autocast=False, **options)
        self.log_center, self.log_scale = list(map(float, log_center)), list(map(float, log_scale))
        self.dropped = list(map(int, dropped))
        self.missing = [(int(column), float(code), float(fill)) for column, code, fill in missing]

    def build(self, input_shape: Any = None) -> None:
        """Do nothing: there are no weights."""

    def call(self, inputs: Any) -> Any:
        """Return the scaled inputs."""
        values = keras.ops.cast(inputs, "float64" if self.compute_dtype == "float64" else "float32")
        replaced = [(values[..., column] == code, column, fill) for column, code, fill in self.missing]
        values = _put(values, [(found, column, 0.0) for found, column, _ in replaced])
        if self.log_scale:
            values = logarithm(values, self.log_center, self.log_scale)
        values = _put(_standardize(values, self.means, self.stds), replaced)
        if self.dropped:
            kept = keras.ops.convert_to_tensor([column not in self.dropped for column in range(len(self.means))])
            values = keras.ops.where(kept, values, keras.ops.zeros_like(values))
        return keras.ops.cast(values, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        columns = {name: getattr(self, name) for name in ("log_center", "log_scale", "dropped", "missing")}
        return {**keras.layers.Layer.get_config(self), "mean": self.means, "std": self.stds, **columns}


def _put(values: Any, entries: list[tuple[Any, int, float]]) -> Any:
    """Return values of which those that are found in a column, of shape (…,), are replaced by a number."""
    for found, column, number in entries:
        here = keras.ops.arange(values.shape[-1]) == column
        values = keras.ops.where(keras.ops.expand_dims(found, -1) & here, keras.ops.cast(number, values.dtype), values)
    return values


@keras.saving.register_keras_serializable(package="autotrainer")
class LogarithmicTargetScaling(keras.layers.Layer):  # type: ignore[misc]
    """Converts outputs to the units of targets on a logarithmic scale: center + scale · sinh(output * std + mean).

    Outside training the outputs are limited: errors of extrapolation would grow exponentially. It computes in single
    precision at least: half precision has too small a range.

    Args:
        mean: Means of the logarithms, one for each column (last axis), or a single one.
        std: Their standard deviations, of the same length, > 0.
        log_center: Centers of the logarithms asinh((y - center) / scale), of the same length.
        log_scale: Their scales; 0 for columns without, which are output * std + mean.
        log_reach: Largest magnitudes of outputs, of the same length.
        options: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, mean: Any, std: Any, log_center: Any, log_scale: Any, log_reach: Any, **options: Any) -> None:
        super().__init__(autocast=False, **options)
        numbers = {"mean": mean, "std": std, "log_center": log_center, "log_scale": log_scale, "log_reach": log_reach}
        self.numbers = {name: list(map(float, each)) for name, each in numbers.items()}

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the outputs in the units of the targets."""
        output = keras.ops.cast(inputs, "float64" if self.compute_dtype == "float64" else "float32")
        mean, std, center, scale, reach = (
            keras.ops.convert_to_tensor(each, output.dtype) for each in self.numbers.values()
        )
        limited = output if training else keras.ops.maximum(keras.ops.minimum(output, reach), -reach)
        logarithms = keras.ops.clip(limited * std + mean, -LARGEST_LOGARITHM, LARGEST_LOGARITHM)
        return keras.ops.where(scale > 0, center + scale * keras.ops.sinh(logarithms), output * std + mean)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), **self.numbers}

    @classmethod
    def of(cls, edit: ScaleTargets, **options: Any) -> LogarithmicTargetScaling:
        """Return the layer of an edit with fitted numbers."""
        return cls(edit.mean, edit.std, edit.log_center, edit.log_scale, edit.log_reach, **options)


def logarithm(values: Any, log_center: list[float], log_scale: list[float]) -> Any:
    """Return values with the inverse hyperbolic sine of those columns whose scale is not 0."""
    scaled = _standardize(values, log_center, [scale or 1.0 for scale in log_scale])
    return keras.ops.where(keras.ops.convert_to_tensor([s > 0 for s in log_scale]), keras.ops.arcsinh(scaled), values)


def _standardize(values: Any, center: list[float], scale: list[float]) -> Any:
    center, scale = (keras.ops.convert_to_tensor(each, values.dtype) for each in (center, scale))
    return (values - center) / scale


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
