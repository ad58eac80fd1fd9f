"""Data sets that need no file: synthetic, or part of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.errors import DataError
from benchmarks.data.threads import THREADS

__all__ = ["BUILTIN", "VOCABULARY", "make_builtin"]

Pair = tuple[NDArray[np.generic], NDArray[np.generic]]

VOCABULARY = 40
"""Tokens of ``reviews``: 0 negates the next word, 1 – 8 are positive, 9 – 16 negative, the others neutral."""


def make_builtin(name: str) -> list[NDArray[np.generic]]:
    """Return inputs and targets for training (the first 70 % of the rows), then for the test (the rest).

    ``circle`` and ``blob`` are drawn as AUTOTRAINER draws them; the others are shuffled once.

    Raises:
        DataError: If there is no such data set.
    """
    if name not in BUILTIN:
        raise DataError(f"unknown data set {name!r}: choose from {', '.join(BUILTIN)}")
    x, y = BUILTIN[name]()
    if name not in ("circle", "blob"):
        order = np.random.default_rng(0).permutation(len(x))
        x, y = x[order], y[order]
    rows = round(0.7 * len(x))
    return [x[:rows], y[:rows], x[rows:], y[rows:]]


def _arm() -> Pair:
    """Draw 1,000 triples of joint angles of a robot arm, in radians, and the position of its hand, shape (1000, 2)."""
    draw = np.random.default_rng(0)
    angles = draw.uniform(-1.5, 1.5, (1000, 3))
    directions = angles.cumsum(1)
    lengths = np.array([1.0, 0.7, 0.4])
    hand = np.stack([(lengths * np.cos(directions)).sum(1), (lengths * np.sin(directions)).sum(1)], axis=1)
    return angles, hand + draw.normal(0, 0.02, hand.shape)


def _odd_cancer() -> Pair:
    """Return ``cancer`` with harmless oddities: a constant and a duplicate column, and 3 % wrong labels."""
    x, y = _sklearn("load_breast_cancer", return_X_y=True)
    wrong = np.random.default_rng(0).random(len(y)) < 0.03
    return np.column_stack([x, np.full(len(x), 7.0), x[:, 0]]), np.where(wrong, 1 - y, y)


def _reviews() -> Pair:
    """Draw 1,500 sequences of 16 tokens (`VOCABULARY`), labelled 1 if more words are positive than negative."""
    draw = np.random.default_rng(0)
    x = draw.integers(1, VOCABULARY, (4000, 16))
    x = np.where(draw.random(x.shape) < 0.04, 0, x)
    sentiment = np.zeros(VOCABULARY)
    sentiment[1:9], sentiment[9:17] = 1, -1
    values = sentiment[x]
    values[:, 1:] *= np.where(x[:, :-1] == 0, -1, 1)
    total = values.sum(1)
    clear = np.abs(total) >= 2
    return x[clear][:1500], (total[clear][:1500] > 0).astype(np.int64)


def _shapes() -> Pair:
    """Draw 1,000 images, 12 × 12 in three colours, 0 – 255: a disc, a square, a cross or a ring (labels 0 – 3)."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, 1000)
    height, width = np.mgrid[:12, :12]
    images = np.empty((1000, 12, 12, 3))
    for image, label in zip(images, labels, strict=True):
        (row, column), size = draw.uniform(4, 7, 2), draw.uniform(2.5, 4)
        down, across = np.abs(height - row), np.abs(width - column)
        radius = np.hypot(down, across)
        disc = radius < size
        square, cross = np.maximum(down, across) < 0.9 * size, np.minimum(down, across) < 1
        inside = (disc, square, cross & disc, disc & (radius > 0.55 * size))
        dark, bright = draw.uniform(20, 90, 3), draw.uniform(140, 230, 3)
        image[:] = np.where(inside[label][..., None], bright, dark)
    return np.clip(images + draw.normal(0, 25, images.shape), 0, 255).round(), labels


def _spirals() -> Pair:
    """Draw three interleaved spiral arms of 400 points each, with noise."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 400)
    radius = draw.uniform(0.1, 1.0, len(labels))
    angle = 4 * radius + labels * 2 * np.pi / 3 + draw.normal(0, 0.1, len(labels))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), labels


def _waves() -> Pair:
    """Draw 1,000 noisy sequences of shape (24, 2): slow waves (label 0) and faster ones (label 1)."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 1000)
    pitch = np.where(labels, draw.uniform(0.5, 0.8, 1000), draw.uniform(0.25, 0.45, 1000))
    angle = pitch[:, None] * np.arange(24) + draw.uniform(0, 2 * np.pi, (1000, 1))
    x = np.stack([np.sin(angle), np.cos(angle)], axis=2)
    return x + draw.normal(0, 0.3, x.shape), labels


def _sklearn(name: str, *args: Any, **settings: Any) -> Any:
    from sklearn import datasets

    return getattr(datasets, name)(*args, **settings)


def _digit_images() -> Pair:
    digits = _sklearn("load_digits")
    return digits.images[..., None] / 16, digits.target


BUILTIN: Mapping[str, Callable[[], Pair]] = {
    "arm": _arm,
    "blob": lambda: _sklearn("make_blobs", 1000, centers=3, n_features=2, cluster_std=2, random_state=2)[:2],
    "cancer": lambda: _sklearn("load_breast_cancer", return_X_y=True),
    "cancer_odd": _odd_cancer,
    "circle": lambda: _sklearn("make_circles", 1000, noise=0.1, random_state=1),
    "diabetes": lambda: _sklearn("load_diabetes", return_X_y=True, scaled=False),
    "digit_images": _digit_images,
    "digits": lambda: _sklearn("load_digits", return_X_y=True),
    "friedman": lambda: _sklearn("make_friedman1", 1000, noise=0.5, random_state=0),
    "iris": lambda: _sklearn("load_iris", return_X_y=True),
    "moons": lambda: _sklearn("make_moons", 1000, noise=0.15, random_state=0),
    "reviews": _reviews,
    "shapes": _shapes,
    "spirals": _spirals,
    "waves": _waves,
    "wine": lambda: _sklearn("load_wine", return_X_y=True),
    **THREADS,
}
"""Data sets by name."""
