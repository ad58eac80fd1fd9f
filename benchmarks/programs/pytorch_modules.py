"""Modules that PyTorch lacks, and initializers as Keras draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "Exponential",
    "Gru",
    "Lstm",
    "Mean",
    "Position",
    "Residual",
    "Scale",
    "SelfAttention",
    "draw_like_keras",
    "initialize",
    "initialize_recurrent",
]


class Lstm(nn.Module):
    """An LSTM over (rows, time, features) that returns all hidden states, or only the last one."""

    def __init__(self, features: int, units: int, *, sequences: bool, bidirectional: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, units, batch_first=True, bidirectional=bidirectional)
        self.sequences = sequences

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (rows, time, units) or (rows, units)."""
        states: Tensor = self.lstm(x)[0]
        return states if self.sequences else states[:, -1]


class Gru(nn.Module):
    """A GRU over (rows, time, features) that returns all hidden states, or only the last one."""

    def __init__(self, features: int, units: int, *, sequences: bool, bidirectional: bool) -> None:
        super().__init__()
        self.gru = nn.GRU(features, units, batch_first=True, bidirectional=bidirectional)
        self.sequences = sequences

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (rows, time, units) or (rows, units)."""
        states: Tensor = self.gru(x)[0]
        return states if self.sequences else states[:, -1]


class SelfAttention(nn.Module):
    """Self-attention over sequences of shape (rows, time, units)."""

    def __init__(self, units: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(units, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        attended: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return attended

    def initialize(self, default_init: str, gain: float) -> None:
        """Draw each of the four square kernels by Glorot, scaled by a gain."""
        units = self.attention.embed_dim
        if default_init != "framework":
            for kernel in (*self.attention.in_proj_weight.data.chunk(3), self.attention.out_proj.weight):
                draw_like_keras(kernel, "glorot_uniform", units, units)
                kernel.data *= gain


class Position(nn.Module):
    """A learned vector for each time step, added to sequences of shape (rows, time, units)."""

    def __init__(self, time: int, units: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(time, units).uniform_(-0.05, 0.05))

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return x + self.table


class Mean(nn.Module):
    """The mean over time: (rows, time, units) to (rows, units)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean."""
        return x.mean(1)


class Residual(nn.Sequential):
    """Layers whose output is added to their input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        inner = x
        for layer in self:
            inner = layer(inner)
        return x + inner


class Scale(nn.Module):
    """A multiplication by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the product."""
        return self.factor * x


class Exponential(nn.Module):
    """The exponential as an activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``exp(x)``."""
        return x.exp()


def initialize(module: nn.Linear | nn.Conv1d | nn.Conv2d, layer: Mapping[str, Any], default_init: str) -> None:
    """Draw a layer's weights.

    Args:
        module: The layer.
        layer: Its settings: ``init``, ``bias_init``, ``bias_const``.
        default_init: Initializer if the layer has none; ``framework`` keeps PyTorch's initialization.
    """
    init = layer.get("init") or default_init
    assert module.bias is not None
    if init != "framework":
        fan_in = module.weight[0].numel()
        fan_out = module.weight.numel() // fan_in * math.prod(module.weight.shape[2:])
        draw_like_keras(module.weight, init, fan_in, fan_out)
        units = len(module.bias)
        draw_like_keras(module.bias, layer.get("bias_init", "zeros"), units, units)
    if "bias_const" in layer:
        nn.init.constant_(module.bias, layer["bias_const"])


def draw_like_keras(weight: Tensor, init: str, fan_in: int, fan_out: int) -> None:
    """Draw weights as the Keras initializer of that name does."""
    if init in ("zeros", "ones"):
        nn.init.constant_(weight, float(init == "ones"))
    elif init == "uniform005":
        nn.init.uniform_(weight, -0.05, 0.05)
    elif init == "uniform01":
        nn.init.uniform_(weight, 0.0, 1.0)
    elif init in ("normal005", "normal1"):
        nn.init.normal_(weight, 0.0, 0.05 if init == "normal005" else 1.0)
    else:
        family, form = init.split("_")
        variance = {"glorot": 2 / (fan_in + fan_out), "he": 2 / fan_in, "lecun": 1 / fan_in}[family]
        if form == "uniform":
            bound = math.sqrt(3 * variance)
            nn.init.uniform_(weight, -bound, bound)
        else:
            std = (
                math.sqrt(variance) / 0.87962566103423978
            )  # standard deviation of a normal truncated at two standard deviations
            nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std)


def initialize_recurrent(recurrent: nn.LSTM | nn.GRU, default_init: str) -> None:
    """Draw an LSTM or GRU as Keras does: Glorot and orthogonal kernels; an LSTM with its forget gates open."""
    if default_init == "framework":
        return
    units = recurrent.hidden_size
    for name, weight in recurrent.named_parameters():
        if name.startswith("weight_ih"):
            draw_like_keras(weight, default_init, weight.shape[1], weight.shape[0])
        elif name.startswith("weight_hh"):
            nn.init.orthogonal_(weight)
        else:
            nn.init.zeros_(weight)
            if name.startswith("bias_ih") and isinstance(recurrent, nn.LSTM):
                nn.init.ones_(weight.data[units : 2 * units])  # gates in the order i, f, g, o
