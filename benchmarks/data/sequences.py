"""Synthetic sequences of the program families; see `synthetic`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SEQUENCES"]

Draw = np.random.Generator
Pair = tuple[NDArray[Any], NDArray[Any]]


def _tags(draw: Draw, words: int = 16, tags: int = 4, length: int = 12) -> Pair:
    """Draw 600 sequences of tokens; each has a tag by a lexicon, shifted by one after the token 0."""
    lexicon = np.arange(words) % tags
    x = draw.integers(1, words, (600, length))
    x = np.where(draw.random(x.shape) < 0.15, 0, x)
    after = np.zeros(x.shape, bool)
    after[:, 1:] = x[:, :-1] == 0
    return x, (lexicon[x] + after) % tags


def _regimes(draw: Draw, length: int = 20) -> Pair:
    """Draw 500 noisy signals of shape (length, 1) that change between two levels; a label of 0 or 1 for each step."""
    steps = draw.random((500, length)) < 0.12
    y = (draw.integers(0, 2, (500, 1)) + steps.cumsum(1)) % 2
    x = np.where(y == 1, 1.0, -1.0) + draw.normal(0, 0.6, y.shape)
    return x[..., None], y


def _grammar(draw: Draw, words: int = 14, length: int = 16, certain: float = 0.9) -> Pair:
    """Draw 600 sequences of tokens and the next token at each step: mostly one successor for each pair of tokens."""
    successor = draw.permuted(np.tile(np.arange(words), (words, 1)), axis=1)[:, :2]
    text = np.empty((600, length + 1), np.int64)
    text[:, :2] = draw.integers(0, words, (600, 2))
    for step in range(2, length + 1):
        choice = successor[text[:, step - 1], (text[:, step - 2] > words // 2).astype(int)]
        text[:, step] = np.where(draw.random(600) < certain, choice, draw.integers(0, words, 600))
    return text[:, :-1], text[:, 1:]


def _forecast(draw: Draw, window: int = 20, noise: float = 0.15, flat: bool = False) -> Pair:
    """Cut 900 windows from a series of two waves with noise; the target is the next value.

    Windows are in order of time, so that the test is the end of the series.
    """
    time = np.arange(900 + window + 1)
    periods, weights = draw.uniform(8, 40, 2), draw.uniform(0.6, 1.2, 2)
    series = sum(w * np.sin(2 * np.pi * time / p + draw.uniform(0, 6)) for p, w in zip(periods, weights, strict=True))
    series = series + draw.normal(0, noise, len(time))
    level, scale = draw.uniform(5, 60), draw.uniform(0.5, 8)
    series = level + scale * series
    x = np.lib.stride_tricks.sliding_window_view(series, window)[:900]
    return (x.copy() if flat else x[..., None].copy()), series[window : window + 900, None]


def _reversal(draw: Draw, words: int = 8, length: int = 8) -> Pair:
    """Draw 1,200 sequences of tokens; the target is the sequence backwards."""
    x = draw.integers(0, words, (1200, length))
    return x, x[:, ::-1].copy()


def _brackets(draw: Draw, length: int = 10) -> Pair:
    """Draw 1,500 sequences of three tokens, labelled by which of the tokens 0 and 1 occurs more often last."""
    x = draw.integers(0, 6, (1500, length))
    weight = np.linspace(0.5, 1.5, length)
    value = ((x == 0) * weight).sum(1) - ((x == 1) * weight).sum(1)
    clear = np.abs(value) > 0.2
    return x[clear], (value[clear] > 0).astype(np.int64)


SEQUENCES: Mapping[str, Callable[..., Pair]] = {
    "brackets": _brackets,
    "forecast": _forecast,
    "grammar": _grammar,
    "regimes": _regimes,
    "reversal": _reversal,
    "tags": _tags,
}
"""Data sets by name."""
