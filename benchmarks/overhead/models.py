"""Models whose steps are timed: an MLP of six layers, a small CNN, a transformer of four layers, and an LSTM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.overhead.size_models import (
    SIZES,
    Size,
    keras_network,
    keras_transformer,
    pytorch_network,
    pytorch_transformer,
)

__all__ = ["MODELS", "keras_model", "pytorch_model"]

MODELS = ("mlp", "cnn", "transformer", "lstm")

_CLASSES = 10
_TRANSFORMER = Size(4, 64, tokens=32)


def pytorch_model(name: str) -> Any:
    """Build one of `MODELS` or of `SIZES` as a `torch.nn.Module`."""
    from torch import nn

    if name in SIZES:
        return pytorch_network(name)

    class Apply(nn.Module):
        """A function as a layer."""

        def __init__(self, function: Callable[[Any], Any]) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Any) -> Any:
            """Return the function's result."""
            return self.function(x)

    if name == "mlp":
        hidden = [part for width in (20, *[64] * 5) for part in (nn.Linear(width, 64), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(64, _CLASSES))
    if name == "cnn":
        return nn.Sequential(
            Apply(lambda x: x.movedim(-1, 1)),
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(512, 64),
            nn.ReLU(),
            nn.Linear(64, _CLASSES),
        )
    if name == "lstm":
        return nn.Sequential(nn.LSTM(16, 64, batch_first=True), Apply(lambda x: x[0][:, -1]), nn.Linear(64, _CLASSES))
    return pytorch_transformer(_TRANSFORMER)


def keras_model(name: str) -> Any:
    """Build one of `MODELS` or of `SIZES` as a `keras.Model`."""
    import keras
    from keras import layers

    if name in SIZES:
        return keras_network(name)

    if name == "mlp":
        hidden = [layers.Dense(64, activation="relu") for _ in range(6)]
        return keras.Sequential([keras.Input((20,)), *hidden, layers.Dense(_CLASSES)])
    if name == "cnn":
        stack = [
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(_CLASSES),
        ]
        return keras.Sequential([keras.Input((16, 16, 3)), *stack])
    if name == "lstm":
        return keras.Sequential([keras.Input((32, 16)), layers.LSTM(64), layers.Dense(_CLASSES)])
    return keras_transformer(_TRANSFORMER)
