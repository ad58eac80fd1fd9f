"""Single layers: their activation function, new weights for them, and layers to insert."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from autotrainer.backends.keras3.model.layer_kinds import kind_of
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer

__all__ = [
    "activation_of",
    "input_noise",
    "make_activation",
    "normalization_after",
    "reinitialize_weights",
    "set_activation",
]

_MAX_GROUPS = 32
_MIN_CHANNELS_PER_GROUP = 4


def activation_of(layer: Any) -> Any:
    """Return the activation function that a layer applies to its output, or None.

    For a recurrent layer it is that of the candidate state, not of the gates.
    """
    owner = getattr(layer, "cell", layer)
    function = getattr(owner, "activation", None)
    return function if callable(function) else None


def set_activation(layer: Any, name: str) -> None:
    """Set the activation function of a layer that has not been traced yet."""
    getattr(layer, "cell", layer).activation = keras.activations.get(name)


def make_activation(name: str, layer_name: str) -> Any:
    """Return an activation as a layer."""
    if name == "thresholded_relu":
        return keras.layers.ReLU(threshold=1.0, name=layer_name)
    return keras.layers.Activation(name, name=layer_name)


def reinitialize_weights(watched: WatchedLayer, scheme: str) -> None:
    """Reinitialize the trainable weights of a layer; biases become zero.

    Kernels use the scheme, recurrent kernels are orthogonal (Saxe et al. 2014) and embeddings uniform, as in Keras.
    Other parameters are not changed.
    """
    for variable in watched.weights:
        if not variable.trainable:
            continue
        name = variable.name
        if name.endswith("bias"):
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
        elif name.startswith("recurrent"):
            variable.assign(keras.initializers.Orthogonal()(variable.shape, variable.dtype))
        elif "kernel" in name:
            variable.assign(keras.initializers.get(scheme)(variable.shape, variable.dtype))
        elif "embedding" in name:
            variable.assign(keras.initializers.RandomUniform()(variable.shape, variable.dtype))


def normalization_after(layer: Any, node: Any, kind: str, new_name: Callable[[str], str]) -> Any:
    """Return a normalization of the output of a dense or convolutional layer.

    Args:
        layer: The layer.
        node: Its node of the graph: itself, or a wrapper.
        kind: ``batch``, ``layer`` or ``group`` (up to 32 groups of at least 4 channels, Wu and He 2018).
        new_name: Makes a name unique.
    """
    axis = 1 if getattr(layer, "data_format", None) == "channels_first" and kind_of(layer) == "conv" else -1
    name = new_name(f"{layer.name}_normalization")
    if kind == "batch":
        return keras.layers.BatchNormalization(axis=axis, name=name)
    if kind == "layer":
        return keras.layers.LayerNormalization(axis=axis, name=name)
    channels = int(node.output.shape[axis])
    fits = (g for g in range(_MAX_GROUPS, 0, -1) if channels % g == 0 and channels // g >= _MIN_CHANNELS_PER_GROUP)
    return keras.layers.GroupNormalization(groups=next(fits, 1), axis=axis, name=name)


def input_noise(std: float, spread: float, new_name: Callable[[str], str]) -> list[Any]:
    """Return layers that add Gaussian noise of ``std`` × ``spread`` while training.

    `GaussianNoise` allows at most 1: larger noise is added between two rescalings.
    """
    name = new_name("input_noise")
    if std * spread <= 1:
        return [keras.layers.GaussianNoise(std * spread, name=name)]
    return [
        keras.layers.Rescaling(1 / spread, name=new_name("input_noise_unit")),
        keras.layers.GaussianNoise(std, name=name),
        keras.layers.Rescaling(spread, name=new_name("input_noise_scale")),
    ]
