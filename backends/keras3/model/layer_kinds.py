"""The kind of a Keras layer, and the activation that a function, layer or operation computes."""

from __future__ import annotations

from typing import Any

import keras

from autotrainer.records.measurement import is_norm_name

__all__ = ["PASS_THROUGH", "WITH_ACTIVATION", "activation_name", "kind_of"]

PASS_THROUGH = ("dropout", "pool", "reshape")
"""Kinds of layers that leave values as they are, or summarize them."""
WITH_ACTIVATION = ("dense", "conv", "recurrent")
"""Kinds of layers that have an activation function."""

_KINDS = (
    ("attention", ("MultiHeadAttention", "GroupedQueryAttention", "Attention")),
    ("recurrent", ("RNN",)),
    ("dense", ("Dense", "EinsumDense")),
    ("conv", ("BaseConv", "BaseConvTranspose", "BaseDepthwiseConv", "BaseSeparableConv")),
    ("embedding", ("Embedding",)),
    (
        "norm",
        (
            "BatchNormalization",
            "LayerNormalization",
            "GroupNormalization",
            "RMSNormalization",
            "UnitNormalization",
            "Normalization",
        ),
    ),
    ("activation", ("Activation", "ReLU", "LeakyReLU", "ELU", "PReLU", "Softmax")),
    ("dropout", ("BaseDropout", "Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout")),
    ("pool", ("BasePooling", "BaseGlobalPooling")),
    ("reshape", ("Flatten", "Reshape", "Permute", "RepeatVector")),
)
_ACTIVATION_OPERATIONS = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
    "Relu6": "relu6",
    "Gelu": "gelu",
    "Elu": "elu",
    "Selu": "selu",
    "Silu": "silu",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "LeakyRelu": "leaky_relu",
    "HardSigmoid": "hard_sigmoid",
    "HardTanh": "hard_tanh",
}


def kind_of(layer: Any) -> str:
    """Return the kind of a layer: a value of `LayerInfo.kind`."""
    names = {base.__name__ for base in type(layer).__mro__ if base.__module__.startswith("keras.")}
    for kind, classes in _KINDS:
        if names.intersection(classes):
            return kind
    return "norm" if _is_custom_norm(layer) else "other"


def _is_custom_norm(layer: Any) -> bool:
    """Return whether a layer of a custom class is a normalization: by its name, and vectors as its only weights."""
    kind = type(layer)
    if not is_norm_name(kind.__name__) or kind.__module__.startswith("keras.") or isinstance(layer, keras.Model):
        return False
    return bool(layer.weights) and all(len(weight.shape) == 1 for weight in layer.weights)


def activation_name(activation: Any) -> str | None:
    """Return the lower-case name of an activation function, layer or operation; None if it is unknown."""
    if activation is None:
        return "linear"
    if isinstance(activation, str):
        return activation.lower()
    if isinstance(activation, keras.layers.Layer):
        kind = type(activation).__name__
        if kind == "Activation":
            return activation_name(activation.activation)
        if kind == "ReLU":
            return _relu_name(activation)
        names = {"LeakyReLU": "leaky_relu", "ELU": "elu", "PReLU": "prelu", "Softmax": "softmax"}
        return names.get(kind)
    if isinstance(activation, keras.Operation):
        return _ACTIVATION_OPERATIONS.get(type(activation).__name__)
    name = getattr(activation, "__name__", None)
    from_keras = str(getattr(activation, "__module__", "")).startswith("keras.")
    return name if from_keras and isinstance(name, str) and name != "<lambda>" else None


def _relu_name(layer: Any) -> str | None:
    if layer.threshold:
        return "thresholded_relu"
    if layer.negative_slope:
        return "leaky_relu"
    if layer.max_value is None:
        return "relu"
    return "relu6" if float(layer.max_value) == 6.0 else "clipped_relu"
