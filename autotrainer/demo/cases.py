"""The published demo cases, each with a healthy twin, as recipes that every framework can build."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["BUDGET", "CASES", "SEED", "Case", "Layer", "Recipe"]


@dataclass(frozen=True, slots=True)
class Layer:
    """A dense layer: units, activation, and whether its initial weights are He (for ReLU) or Glorot uniform."""

    units: int
    activation: Literal["linear", "relu", "sigmoid", "softmax"]
    he: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """A training on one of the embedded data sets.

    Attributes:
        data: ``circle`` (one output unit, binary cross-entropy) or ``blob`` (three classes, cross-entropy).
        layers: Dense layers, the output layer last.
        optimizer: ``adam`` or ``sgd``.
        learning_rate: Learning rate.
        batch_size: Samples per batch.
        epochs: Number of epochs.
        momentum: Momentum of SGD.
    """

    data: Literal["circle", "blob"]
    layers: tuple[Layer, ...]
    optimizer: Literal["adam", "sgd"]
    learning_rate: float
    batch_size: int
    epochs: int
    momentum: float = 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """A faulty training of the published demo, its problem, and a healthy twin."""

    problem: str
    description: str
    faulty: Recipe
    twin: Recipe


SEED = 1
"""Seed of everything that is random."""

BUDGET = 4.0
"""Budget of each case, in baseline trainings."""

_HIDDEN = Layer(50, "relu", he=True)
_VANISHING = Recipe("circle", (*[Layer(5, "sigmoid")] * 8, Layer(1, "sigmoid")), "adam", 1e-3, 128, 300)
_OSCILLATING = Recipe("blob", (_HIDDEN, Layer(3, "softmax")), "sgd", 1e-2, 1, 20, momentum=0.9)
_IMPROPER = Recipe("blob", (*[_HIDDEN] * 4, Layer(3, "relu")), "adam", 1e-4, 256, 300)

CASES = (
    Case(
        "vanishing_gradient",
        "Circle, eight sigmoid layers of five units",
        _VANISHING,
        replace(
            _VANISHING, layers=(*[Layer(16, "relu", he=True)] * 2, Layer(1, "sigmoid")), learning_rate=1e-2, epochs=100
        ),
    ),
    Case(
        "oscillating_loss",
        "Blob, batches of one row with SGD, rate 0.01 and momentum 0.9",
        _OSCILLATING,
        replace(_OSCILLATING, optimizer="adam", learning_rate=1e-3, batch_size=32, momentum=0.0, epochs=60),
    ),
    Case(
        "improper_output_activation",
        "Blob, ReLU output instead of softmax",
        _IMPROPER,
        replace(_IMPROPER, layers=(*[_HIDDEN] * 4, Layer(3, "softmax")), learning_rate=1e-3, epochs=100),
    ),
)
"""The cases. Layers, data, optimizers and batch sizes are the published ones; the case with batch size 1 has 20 epochs
instead of 200."""
