"""Parts that examples are put together from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.data.builtin import VOCABULARY
from benchmarks.generator.families.family import Draw
from benchmarks.generator.recipes import Row

__all__ = ["DIGITS", "FLAT", "REVIEWS", "SHAPES", "VOCABULARY", "Example"]
__all__ += ["adam", "conv", "drop", "embed", "like", "pool"]

Example = Callable[[Draw], tuple[list[Row], str, Row, Row, dict[str, Any]]]
"""Returns layers, loss, optimizer, data, and ``epochs``, ``batch_size``, ``metric`` and ``reached``."""

DIGITS: Row = {"generator": "digit_images", "scaling": "raw", "label_encoding": "index"}
SHAPES: Row = {"generator": "shapes", "scaling": "div255", "label_encoding": "index"}
REVIEWS: Row = {"generator": "reviews", "scaling": "tokens", "label_encoding": "binary"}
FLAT: Row = {"type": "flatten"}


def conv(filters: int, activation: str | None = "relu", kernel: int = 3) -> Row:
    """Return a convolution of images that keeps their size."""
    return {"type": "conv2d", "filters": filters, "kernel": kernel, "padding": "same", "activation": activation}


def pool(size: int = 2) -> Row:
    """Return a maximum over squares."""
    return {"type": "maxpool2d", "size": size}


def drop(rate: float) -> Row:
    """Return dropout."""
    return {"type": "dropout", "rate": rate}


def embed(vocabulary: int, units: int) -> Row:
    """Return an embedding."""
    return {"type": "embedding", "vocabulary": vocabulary, "units": units}


def adam(rate: float = 0.001) -> Row:
    """Return Adam."""
    return {"name": "adam", "lr": rate}


def like(**options: Any) -> dict[str, Any]:
    """Return settings of a training, ``options`` in place of the usual ones."""
    return {"epochs": 10, "batch_size": 32, "metric": "accuracy", "reached": 0.9, **options}
