"""Layers of the neutral description as PyTorch modules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from benchmarks.programs.pytorch_modules import (
    Exponential,
    Gru,
    Lstm,
    Mean,
    Position,
    Residual,
    Scale,
    SelfAttention,
    draw_like_keras,
    initialize,
    initialize_recurrent,
)

__all__ = ["make_layers"]

Shape = tuple[int, ...]


def make_layers(layers: Sequence[Mapping[str, Any]], shape: Shape, default_init: str) -> tuple[list[nn.Module], Shape]:
    """Build layers.

    Args:
        layers: Their descriptions, in forward order.
        shape: Shape of one input, channels first where a convolution reads it; a sequence is (time, features).
        default_init: Initializer of layers without their own.

    Returns:
        The modules, and the shape of one output.
    """
    modules: list[nn.Module] = []
    for layer in layers:
        new, shape = _layer(layer, shape, default_init)
        modules += new
    return modules, shape


def _layer(layer: Mapping[str, Any], shape: Shape, default_init: str) -> tuple[list[nn.Module], Shape]:
    kind = str(layer["type"])
    if kind == "flatten":
        return [nn.Flatten()], (math.prod(shape),)
    if kind == "dropout":
        return [nn.Dropout(layer["rate"])], shape
    if kind == "activation":
        if "axis" in layer:
            return [nn.Softmax(dim=layer["axis"])], shape
        return [_activation(str(layer["fn"]), layer.get("alpha", 0.01))], shape
    if kind == "batchnorm":
        return [nn.BatchNorm1d(shape[0]) if len(shape) < 3 else nn.BatchNorm2d(shape[0])], shape
    if kind == "layernorm":
        return [nn.LayerNorm(shape[-1])], shape
    if kind in ("maxpool1d", "maxpool2d"):
        size = int(layer["size"])
        pool = nn.MaxPool1d(size) if kind == "maxpool1d" else nn.MaxPool2d(size)
        return [pool], (shape[0], *(n // size for n in shape[1:]))
    if kind == "residual":
        inner, inner_shape = make_layers(layer["layers"], shape, default_init)
        if inner_shape != shape:
            raise ValueError(f"a residual block turns shape {shape} into {inner_shape}")
        return [Residual(*inner)], shape
    if kind == "scale":
        return [Scale(float(layer["factor"]))], shape
    if kind == "squeeze":
        return [nn.Flatten(0)], ()
    if kind in ("attention", "embedding", "mean", "position"):
        return _of_sequences(kind, layer, shape, default_init)
    if kind in ("gru", "lstm"):
        return _recurrent(kind, layer, shape, default_init)
    return _weighted(kind, layer, shape, default_init)


def _of_sequences(
    kind: str, layer: Mapping[str, Any], shape: Shape, default_init: str
) -> tuple[list[nn.Module], Shape]:
    if kind == "mean":
        return [Mean()], shape[1:]
    if kind == "position":
        return [Position(*shape)], shape
    if kind == "attention":
        attention = SelfAttention(shape[-1], int(layer["heads"]))
        attention.initialize(default_init, float(layer.get("gain", 1)))
        return [attention], shape
    embedding = nn.Embedding(layer["vocabulary"], layer["units"])
    if default_init != "framework":
        draw_like_keras(embedding.weight, "uniform005", 1, 1)
    return [embedding], (*shape, layer["units"])


def _recurrent(kind: str, layer: Mapping[str, Any], shape: Shape, default_init: str) -> tuple[list[nn.Module], Shape]:
    both = bool(layer.get("bidirectional", False))
    sequences = bool(layer.get("return_sequences", False))
    new = (Lstm if kind == "lstm" else Gru)(shape[-1], layer["units"], sequences=sequences, bidirectional=both)
    initialize_recurrent(new.lstm if isinstance(new, Lstm) else new.gru, default_init)
    width = layer["units"] * (2 if both else 1)
    return [new], ((shape[0], width) if sequences else (width,))


def _weighted(kind: str, layer: Mapping[str, Any], shape: Shape, default_init: str) -> tuple[list[nn.Module], Shape]:
    new: nn.Linear | nn.Conv1d | nn.Conv2d
    if kind == "dense":
        new, shape = nn.Linear(shape[-1], layer["units"]), (*shape[:-1], layer["units"])
    elif kind in ("conv1d", "conv2d"):
        conv = nn.Conv1d if kind == "conv1d" else nn.Conv2d
        new = conv(shape[0], layer["filters"], layer["kernel"], padding=layer["padding"])
        less = 0 if layer["padding"] == "same" else layer["kernel"] - 1
        shape = (layer["filters"], *(size - less for size in shape[1:]))  # stride 1
    else:
        raise ValueError(f"unknown type of layer {kind!r}")
    initialize(new, layer, default_init)
    return [new, *([_activation(str(layer["activation"]), 0.01)] if layer.get("activation") else [])], shape


def _activation(name: str, alpha: float) -> nn.Module:
    factories: dict[str, Callable[[], nn.Module]] = {
        "elu": nn.ELU,
        "exponential": Exponential,
        "gelu": nn.GELU,
        "leaky_relu": lambda: nn.LeakyReLU(alpha),
        "relu": nn.ReLU,
        "sigmoid": nn.Sigmoid,
        "softmax": lambda: nn.Softmax(dim=-1),
        "tanh": nn.Tanh,
    }
    return factories[name]()
