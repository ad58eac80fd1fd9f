"""Layers of the neutral description in Keras 3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers

__all__ = ["Position", "apply", "make_layer"]


@keras.saving.register_keras_serializable(package="benchmarks")
class Position(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """A learned vector for each time step, added to sequences of shape (rows, time, units)."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Create the table."""
        self.table = self.add_weight(shape=input_shape[1:], initializer=_initializer("uniform005"), name="table")

    def call(self, inputs: Any) -> Any:
        """Return the same shape."""
        return inputs + self.table


def apply(descriptions: Sequence[Mapping[str, Any]], x: Any, default_init: str) -> Any:
    """Apply layers, including branches, to a symbolic tensor and return the output."""
    for layer in descriptions:
        if layer["type"] == "residual":
            x = layers.Add()([x, apply(layer["layers"], x, default_init)])
        elif layer["type"] == "attention":
            x = _attention(layer, int(x.shape[-1]))(x, x)
        else:
            x = make_layer(layer, default_init)(x)
    return x


def _attention(layer: Mapping[str, Any], units: int) -> keras.layers.Layer:
    # Glorot of a square kernel: Keras would compute the fans from the shape (units, heads, size)
    bound = math.sqrt(6 / (2 * units)) * float(layer.get("gain", 1))
    kernel = keras.initializers.RandomUniform(-bound, bound)
    return layers.MultiHeadAttention(layer["heads"], units // int(layer["heads"]), kernel_initializer=kernel)


def make_layer(layer: Mapping[str, Any], default_init: str) -> keras.layers.Layer:
    """Build a layer with one input.

    Args:
        layer: Its description.
        default_init: Initializer if the layer has none.
    """
    kind = str(layer["type"])
    if kind == "flatten":
        return layers.Flatten()
    if kind == "scale":
        return layers.Rescaling(layer["factor"])
    if kind == "squeeze":
        return layers.Reshape(())
    if kind == "dropout":
        return layers.Dropout(layer["rate"])
    if kind == "activation":
        if "axis" in layer:
            return layers.Softmax(layer["axis"])
        if layer["fn"] == "leaky_relu":
            return layers.LeakyReLU(negative_slope=layer.get("alpha", 0.01))
        return layers.Activation(layer["fn"])
    if kind == "batchnorm":
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)  # as PyTorch's
    if kind == "layernorm":
        return layers.LayerNormalization(epsilon=1e-5)
    if kind == "embedding":
        return layers.Embedding(layer["vocabulary"], layer["units"])
    if kind == "position":
        return Position()
    if kind == "mean":
        return layers.GlobalAveragePooling1D()
    if kind in ("maxpool1d", "maxpool2d"):
        return layers.MaxPooling1D(layer["size"]) if kind == "maxpool1d" else layers.MaxPooling2D(layer["size"])
    if kind in ("gru", "lstm"):
        factory = layers.LSTM if kind == "lstm" else layers.GRU
        recurrent = factory(layer["units"], return_sequences=layer.get("return_sequences", False))
        return layers.Bidirectional(recurrent) if layer.get("bidirectional") else recurrent
    common = {
        "activation": layer.get("activation"),
        "kernel_initializer": _initializer(layer.get("init") or default_init),
        "bias_initializer": _initializer(layer.get("bias_init", "zeros")),
    }
    if "bias_const" in layer:
        common["bias_initializer"] = keras.initializers.Constant(layer["bias_const"])
    if kind == "dense":
        return layers.Dense(layer["units"], **common)
    if kind in ("conv1d", "conv2d"):
        conv = layers.Conv1D if kind == "conv1d" else layers.Conv2D
        return conv(layer["filters"], layer["kernel"], padding=layer["padding"], **common)
    raise ValueError(f"unknown type of layer {kind!r}")


def _initializer(name: str) -> Any:
    initializers = {
        "framework": "glorot_uniform",
        "normal005": keras.initializers.RandomNormal(stddev=0.05),
        "normal1": keras.initializers.RandomNormal(stddev=1.0),
        "uniform005": keras.initializers.RandomUniform(-0.05, 0.05),
        "uniform01": keras.initializers.RandomUniform(0.0, 1.0),
    }
    return initializers.get(name, name)
