"""Modules that PyTorch lacks, and initializers as Keras draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Exponential",
    "Lstm",
    "SparseCategoricalCrossentropy",
    "SummedCrossEntropy",
    "initialize",
    "initialize_lstm",
]

_CLIP = 1e-7  # Keras keeps probabilities this far from 0 and 1


class BinaryCrossentropy(nn.Module):
    """Binary cross-entropy on probabilities that are kept off 0 and 1, as Keras computes it."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over rows and units."""
        p = outputs.clamp(_CLIP, 1 - _CLIP)
        return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()


class CategoricalCrossentropy(nn.Module):
    """Cross-entropy of one-hot targets on probabilities, normalised and kept off 0 and 1, as Keras computes it."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over rows."""
        p = (outputs / outputs.sum(-1, keepdim=True)).clamp(_CLIP, 1 - _CLIP)
        return -(targets * p.log()).sum(-1).mean()


class SparseCategoricalCrossentropy(nn.Module):
    """Cross-entropy of class indices on probabilities, as Keras computes it: a softmax over their logarithms."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over rows and time steps."""
        logs = outputs.clamp(_CLIP, 1 - _CLIP).log()
        return nn.functional.nll_loss(logs.log_softmax(-1).flatten(0, -2), targets.flatten())


class SummedCrossEntropy(nn.Module):
    """Cross-entropy written out, with neither a clip nor a mean: ``-sum(y * log(p))``."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over rows and units."""
        return -(targets * outputs.log()).sum()


class Lstm(nn.Module):
    """An LSTM over (rows, time, features) that gives its hidden states, or the last one alone."""

    def __init__(self, features: int, units: int, *, sequences: bool, bidirectional: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, units, batch_first=True, bidirectional=bidirectional)
        self.sequences = sequences

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (rows, time, units) or (rows, units)."""
        states: Tensor = self.lstm(x)[0]
        return states if self.sequences else states[:, -1]


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
        default_init: Initializer if it names none; ``framework`` leaves it as PyTorch made it.
    """
    init = layer.get("init") or default_init
    assert module.bias is not None
    if init != "framework":
        fan_in = module.weight[0].numel()
        _draw(module.weight, init, fan_in, module.weight.numel() // fan_in * math.prod(module.weight.shape[2:]))
        units = len(module.bias)
        _draw(module.bias, layer.get("bias_init", "zeros"), units, units)
    if "bias_const" in layer:
        nn.init.constant_(module.bias, layer["bias_const"])


def _draw(weight: Tensor, init: str, fan_in: int, fan_out: int) -> None:
    """Draw weights as the Keras initializer of that name does."""
    if init in ("zeros", "ones"):
        nn.init.constant_(weight, float(init == "ones"))
    elif init == "uniform005":
        nn.init.uniform_(weight, -0.05, 0.05)
    elif init == "normal005":
        nn.init.normal_(weight, 0.0, 0.05)
    else:
        family, form = init.split("_")
        variance = {"glorot": 2 / (fan_in + fan_out), "he": 2 / fan_in, "lecun": 1 / fan_in}[family]
        if form == "uniform":
            bound = math.sqrt(3 * variance)
            nn.init.uniform_(weight, -bound, bound)
        else:
            std = math.sqrt(variance) / 0.87962566103423978  # of a normal cut at two standard deviations
            nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std)


def initialize_lstm(lstm: nn.LSTM, default_init: str) -> None:
    """Draw an LSTM as Keras does: Glorot and orthogonal kernels, forget gates open."""
    if default_init == "framework":
        return
    units = lstm.hidden_size
    for name, weight in lstm.named_parameters():
        if name.startswith("weight_ih"):
            _draw(weight, default_init, weight.shape[1], weight.shape[0])
        elif name.startswith("weight_hh"):
            nn.init.orthogonal_(weight)
        else:
            nn.init.zeros_(weight)
            if name.startswith("bias_ih"):
                nn.init.ones_(weight.data[units : 2 * units])  # gates in the order i, f, g, o
