"""Which layers a rule compares, and which samples."""

from __future__ import annotations

import numpy as np

from autotrainer.history import RunHistory
from autotrainer.signals import Floats

__all__ = ["activated", "inputs_vary", "last_epochs", "names", "weight_layers"]


def weight_layers(history: RunHistory) -> list[int]:
    """Return the rows of trainable weight layers in forward order: no normalization, no embedding, nothing frozen."""
    return [
        row
        for row, layer in enumerate(history.layers)
        if layer.parameters > 0 and not layer.frozen and layer.kind not in ("norm", "embedding")
    ]


def activated(history: RunHistory) -> list[int]:
    """Return the rows whose output is what the next layer gets: no layer before normalization or an activation."""
    kinds = [layer.kind for layer in history.layers]
    followed = [after in ("norm", "activation") for after in [*kinds[1:], ""]]
    return [row for row, kind in enumerate(kinds) if kind != "norm" and not followed[row]]


def names(history: RunHistory, rows: list[int]) -> tuple[str, ...]:
    """Return the names of layers."""
    return tuple(history.layers[row].name for row in rows)


def last_epochs(history: RunHistory, count: float) -> slice | None:
    """Return the samples of the last `count` ended epochs; None if there are not as many."""
    if history.epoch < count:
        return None
    begin = history.step_of_epoch(history.epoch - 1 - int(count)) if history.epoch > count else -1
    return slice(int(np.searchsorted(history.steps, begin, side="right")), len(history.steps))


def inputs_vary(history: RunHistory) -> bool:
    """Whether the sampled inputs differ from row to row, as far as is known."""
    spread: Floats = history.scalar("input_std")
    known = spread[~np.isnan(spread)]
    return not known.size or bool(known[-1] > 0)
