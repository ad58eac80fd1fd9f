"""What trainings of transformers share in both frameworks: schedule, targets, texts that a decoder goes on with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases.case import Program
from benchmarks.data.datasets import Arrays
from benchmarks.data.tokens import IGNORED, PAD

__all__ = ["beginnings", "last_scores", "rate_factor", "training_targets"]


def rate_factor(step: int, steps: int, optimizer: Mapping[str, Any]) -> float:
    """Return the learning rate of a step ÷ the highest: ``schedule`` ``constant``, ``linear`` or ``cosine`` to zero.

    ``warm_up``: share of the steps in which the rate rises.
    """
    rising = max(1, round(float(optimizer.get("warm_up", 0)) * steps))
    if step < rising:
        return (step + 1) / rising
    left = max(0.0, 1 - (step - rising) / max(1, steps - rising))
    return {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[
        str(optimizer.get("schedule", "constant"))
    ]


def training_targets(program: Program, data: Arrays) -> NDArray[Any]:
    """Return the targets to train with: those of the data, unless a fault changes them."""
    fault, x, y = program.layers[0].get("wrong", {}).get("targets"), data.x_train, data.y_train
    if fault == "not_shifted":
        return np.where(y != IGNORED, x, IGNORED)
    return np.asarray(y)


def beginnings(x: NDArray[Any]) -> NDArray[Any]:
    """Return each text up to each of its tokens, padded: what a decoder sees when it writes; (rows × time, time)."""
    rows, time = x.shape
    visible = np.tri(time, dtype=bool)[None]
    return np.where(visible, x[:, None, :], PAD).reshape(rows * time, time)


def last_scores(outputs: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return the scores after the last token of each of `beginnings`: (rows, time, outputs)."""
    time = outputs.shape[1]
    return outputs.reshape(rows, time, time, -1)[:, np.arange(time), np.arange(time)]
