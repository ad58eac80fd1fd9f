"""Trainings of tutorials and books in miniature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.generator.families.examples_parts import DIGITS, FLAT, SHAPES, Example, adam, conv, drop, like, pool
from benchmarks.generator.families.family import Draw, dense
from benchmarks.generator.recipes import Row

__all__ = ["TUTORIALS"]


def _classifier(draw: Draw) -> Any:
    """Batches of four at a low rate."""
    layers = [conv(6, "relu", 5), pool(), conv(16, "relu", 5), pool(), FLAT, dense(60, "relu"), dense(42, "relu")]
    optimizer: Row = {"name": "sgd", "lr": 0.004, "momentum": 0.9}
    return [*layers, dense(4)], "ce_logits", optimizer, SHAPES, like(epochs=11, batch_size=4, reached=0.88)


def _polynomial(draw: Draw) -> Any:
    """A cubic fitted to a sine by full batches at a rate of 1e-5 for the summed error."""
    data: Row = {"generator": "polynomial", "scaling": "raw", "label_encoding": "float"}
    optimizer: Row = {"name": "sgd", "lr": 1e-5}
    return [dense(1)], "mse_sum", optimizer, data, like(epochs=1200, batch_size=2000, metric="r2", reached=0.95)


def _logistic(draw: Draw) -> Any:
    data: Row = {"generator": "digits", "scaling": "minmax", "label_encoding": "index"}
    return [dense(10)], "ce_logits", {"name": "sgd", "lr": 0.5}, data, like(epochs=10, batch_size=64, reached=0.94)


def _beginner(draw: Draw) -> Any:
    layers = [FLAT, dense(128, "relu"), drop(0.2), dense(10)]
    return layers, "ce_logits", adam(), DIGITS, like(epochs=12, reached=0.96)


def _small_resnet(draw: Draw) -> Any:
    norm = {"type": "batchnorm"}
    block = {
        "type": "residual",
        "layers": [conv(12, None), norm, {"type": "activation", "fn": "relu"}, conv(12, None)],
    }
    layers = [conv(12, None), norm, {"type": "activation", "fn": "relu"}, block, pool(), block, pool(), FLAT]
    return [*layers, dense(4, "softmax")], "scce", adam(0.002), SHAPES, like(epochs=8, reached=0.9)


def _bag_of_words(draw: Draw) -> Any:
    data: Row = {"generator": "topics", "settings": {"classes": 4}, "scaling": "raw", "label_encoding": "onehot"}
    layers = [dense(64, "relu"), dense(64, "relu"), dense(4, "softmax")]
    return layers, "cce", {"name": "rmsprop", "lr": 0.001}, data, like(epochs=9, reached=0.85)


def _housing(draw: Draw) -> Any:
    """Targets in thousands of dollars, unscaled."""
    layers = [dense(64, "relu"), dense(64, "relu"), dense(1)]
    data: Row = {"generator": "surface", "settings": {"scale": 9.0}, "scaling": "standard", "label_encoding": "float"}
    optimizer: Row = {"name": "rmsprop", "lr": 0.001}
    return layers, "mse", optimizer, data, like(epochs=60, batch_size=16, metric="r2", reached=0.8)


def _mileage(draw: Draw) -> Any:
    """The mean absolute error of unscaled targets around 20."""
    layers = [dense(64, "relu"), dense(64, "relu"), dense(1)]
    data: Row = {"generator": "surface", "settings": {"scale": 8.0, "columns": 4}, "scaling": "standard"}
    return layers, "mae", adam(), {**data, "label_encoding": "float"}, like(epochs=80, metric="r2", reached=0.85)


TUTORIALS: Mapping[str, Example] = {
    "classifier": _classifier,
    "polynomial": _polynomial,
    "logistic": _logistic,
    "beginner": _beginner,
    "small_resnet": _small_resnet,
    "bag_of_words": _bag_of_words,
    "housing": _housing,
    "mileage": _mileage,
}
"""Examples by name."""
