"""Models of many sizes whose steps are timed: from 10 to 10,000 layers, of up to 100 M parameters, and on two ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "RANKS",
    "SIZES",
    "Size",
    "batch",
    "keras_network",
    "keras_transformer",
    "pytorch_network",
    "pytorch_transformer",
]

_CLASSES = 10


@dataclass(frozen=True, slots=True)
class Size:
    """A training of this size.

    Attributes:
        layers: Linear layers and ReLUs of an MLP, in all; or blocks of a transformer, if there are tokens.
        width: Units of each linear layer.
        rows: Rows of a batch.
        tokens: Tokens of a row of a transformer; 0 for an MLP.
    """

    layers: int
    width: int
    rows: int = 32
    tokens: int = 0


SIZES = {
    "10 layers": Size(10, 64),
    "100 layers": Size(100, 64),
    "1,000 layers": Size(1000, 64),
    "10,000 layers": Size(10_000, 16),
    "1 M parameters": Size(8, 498),
    "30 M parameters": Size(8, 2737),
    "100 M parameters": Size(8, 4998),
    "16 rows": Size(12, 64, 16),
    "1,024 rows": Size(12, 64, 1024),
    "65,536 rows": Size(12, 64, 65_536),
    "512 tokens": Size(2, 64, 2, 512),
    "2,048 tokens": Size(2, 64, 2, 2048),
    "8,192 tokens": Size(2, 64, 1, 8192),
    "DDP, 2 ranks": Size(12, 512),
    "FSDP2, 2 ranks": Size(12, 512),
}
"""The sizes by their names in the table."""

RANKS = {name: name.partition(",")[0].lower() for name in SIZES if name.endswith("ranks")}
"""Sizes that are trained by two processes, and how their model is wrapped."""


def batch(name: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return inputs and classes of a batch of this size."""
    size, generator = SIZES[name], np.random.default_rng(0)
    shape = (size.rows, size.tokens, size.width) if size.tokens else (size.rows, size.width)
    return generator.standard_normal(shape).astype(np.float32), generator.integers(0, _CLASSES, size.rows)


def pytorch_network(name: str) -> Any:
    """Build the model of this size as a `torch.nn.Module`, wrapped if it is trained on two ranks."""
    from torch import nn

    size = SIZES[name]
    if size.tokens:
        return pytorch_transformer(size)
    hidden = [part for _ in range(size.layers // 2) for part in (nn.Linear(size.width, size.width), nn.ReLU())]
    network = nn.Sequential(*hidden, nn.Linear(size.width, _CLASSES))
    if RANKS.get(name) == "ddp":
        return nn.parallel.DistributedDataParallel(network)
    if RANKS.get(name) == "fsdp2":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        for part in network:
            if isinstance(part, nn.Linear):
                fully_shard(part, mesh=mesh)
        fully_shard(network, mesh=mesh)
    return network


def pytorch_transformer(size: Size) -> Any:
    """Build a transformer of this size as a `torch.nn.Module`."""
    from torch import nn

    class Mean(nn.Module):
        """The mean over tokens."""

        def forward(self, x: Any) -> Any:
            """Return it, shape (rows, units)."""
            return x.mean(1)

    layer = nn.TransformerEncoderLayer(size.width, 4, 2 * size.width, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, size.layers, enable_nested_tensor=False)
    return nn.Sequential(encoder, Mean(), nn.Linear(size.width, _CLASSES))


def keras_network(name: str) -> Any:
    """Build the model of this size as a `keras.Model`."""
    import keras
    from keras import layers

    size = SIZES[name]
    if size.tokens:
        return keras_transformer(size)
    hidden = [layers.Dense(size.width, activation="relu") for _ in range(size.layers // 2)]
    return keras.Sequential([keras.Input((size.width,)), *hidden, layers.Dense(_CLASSES)])


def keras_transformer(size: Size) -> Any:
    """Build a transformer of this size as a `keras.Model`."""
    import keras
    from keras import layers

    inputs = x = keras.Input((size.tokens, size.width))
    for _ in range(size.layers):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, size.width // 4)(x, x))
        inner = layers.Dense(2 * size.width, activation="relu")(x)
        x = layers.LayerNormalization()(x + layers.Dense(size.width)(inner))
    return keras.Model(inputs, layers.Dense(_CLASSES)(layers.GlobalAveragePooling1D()(x)))
