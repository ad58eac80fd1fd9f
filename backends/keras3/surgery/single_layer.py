"""Single layers and their weights: the activation that one applies, new weights, and layers to put in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from autotrainer.backends.keras3.model.kinds import kind_of
from autotrainer.backends.keras3.model.parts import Part

__all__ = [
    "draw_weights",
    "input_noise",
    "make_activation",
    "normalization_after",
    "own_activation",
    "set_own_activation",
]

_MAX_GROUPS = 32
_MIN_CHANNELS_PER_GROUP = 4


def own_activation(layer: Any) -> Any:
    """Return the activation function that a layer applies to its output, or None if it keeps none.

    Of a recurrent layer that is the one of the candidate state; gates are no part of it.
    """
    owner = getattr(layer, "cell", layer)
    function = getattr(owner, "activation", None)
    return function if callable(function) else None


def set_own_activation(layer: Any, name: str) -> None:
    """Give a layer that has not been traced yet another activation function."""
    getattr(layer, "cell", layer).activation = keras.activations.get(name)


def make_activation(name: str, layer_name: str) -> Any:
    """Return an activation as a layer."""
    if name == "thresholded_relu":
        return keras.layers.ReLU(threshold=1.0, name=layer_name)
    return keras.layers.Activation(name, name=layer_name)


def draw_weights(part: Part, scheme: str) -> None:
    """Draw the trainable weights of a layer anew; biases become zero.

    Kernels take the scheme, recurrent kernels are orthogonal (Saxe et al. 2014) and embeddings uniform, as Keras
    has them. Other parameters stay.
    """
    for variable in part.weights:
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
        node: The layer of the graph that it is, or is wrapped in.
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

    `GaussianNoise` takes up to 1: larger noise is added between two rescalings.
    """
    name = new_name("input_noise")
    if std * spread <= 1:
        return [keras.layers.GaussianNoise(std * spread, name=name)]
    return [
        keras.layers.Rescaling(1 / spread, name=new_name("input_noise_unit")),
        keras.layers.GaussianNoise(std, name=name),
        keras.layers.Rescaling(spread, name=new_name("input_noise_scale")),
    ]
