"""Which layers a rule compares, and which samples."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats, LayerInfo
from autotrainer.rules._shared.trends import last_median

__all__ = [
    "activated",
    "inputs_vary",
    "is_pretrained",
    "last_epochs",
    "names",
    "no_gradient",
    "norm_ratios",
    "shrunk_norms",
    "squashing_layers",
    "weight_layers",
]

_SQUASHING = ("sigmoid", "hard_sigmoid", "hardsigmoid")
"""Activations whose slope is at most 1/4."""

_USUAL = 0.3
"""Smallest usual norm of the weights ÷ root of the units: standard initializers give 0.6 to 1.4 (Glorot 2010, He
2015)."""


def weight_layers(history: RunHistory) -> list[int]:
    """Return the rows of trainable weight layers in forward order: no normalization, no embedding, nothing frozen."""
    return [
        row
        for row, layer in enumerate(history.layers)
        if layer.parameters > 0 and not layer.frozen and layer.kind not in ("norm", "embedding")
    ]


def norm_ratios(history: RunHistory) -> Floats:
    """Return the norm of the weights of each layer that has some ÷ that at the first step."""
    norms = history.layer("weight_norm")[:, weight_layers(history)]
    if not norms.size:
        return np.zeros(0)
    with np.errstate(all="ignore"):
        return np.asarray(last_median(norms) / norms[0])


def shrunk_norms(history: RunHistory) -> float:
    """Return the median over layers of the norm of the weights ÷ that at the first step; NaN if unknown."""
    ratios = norm_ratios(history)
    ratios = ratios[np.isfinite(ratios)]
    return float(np.median(ratios)) if ratios.size else math.nan


def squashing_layers(history: RunHistory) -> list[int]:
    """Return the hidden weight layers if each of them shrinks signal and gradient; else an empty list.

    A sigmoid removes at least three quarters of both in each layer. No initialization with weights of usual size
    compensates for that (Glorot and Bengio 2010): the activation is the cause, not the initializer.
    """
    rows = [row for row in weight_layers(history) if history.layers[row].hidden]
    if not rows or any(history.layers[row].activation not in _SQUASHING for row in rows) or not len(history.steps):
        return []
    sizes = history.layer("weight_norm")[0, rows] / np.sqrt([history.layers[row].units or 1 for row in rows])
    return rows if np.median(sizes) >= _USUAL else []


def activated(history: RunHistory) -> list[int]:
    """Return the rows whose output the next layer receives: no layer that a normalization or an activation follows."""
    kinds = [layer.kind for layer in history.layers]
    followed = [after in ("norm", "activation") for after in [*kinds[1:], ""]]
    return [row for row, kind in enumerate(kinds) if kind != "norm" and not followed[row]]


def names(history: RunHistory, rows: list[int]) -> tuple[str, ...]:
    """Return the names of the layers in these rows."""
    return tuple(history.layers[row].name for row in rows)


def last_epochs(history: RunHistory, count: float) -> slice | None:
    """Return the samples of the last `count` finished epochs; None if there are fewer."""
    if history.epoch < count:
        return None
    begin = history.step_of_epoch(history.epoch - 1 - int(count)) if history.epoch > count else -1
    return slice(int(np.searchsorted(history.steps, begin, side="right")), len(history.steps))


def inputs_vary(history: RunHistory) -> bool:
    """Return whether the sampled inputs differ from row to row; true if unknown."""
    spread: Floats = history.scalar("input_std")
    spread = spread[~np.isnan(spread)]
    return not spread.size or bool(spread[-1] > 0)


def is_pretrained(layers: Iterable[LayerInfo]) -> bool:
    """Return whether any of these layers was trained before the first observed step."""
    return any(layer.origin == "trained" for layer in layers)


def no_gradient(history: RunHistory) -> bool:
    """Return whether the gradients of all layers were exactly zero in most of the last samples."""
    rows = weight_layers(history)
    norms = last_median(history.layer("grad_norm")[:, rows]) if rows else np.ones(1)
    return bool((norms == 0).all())
