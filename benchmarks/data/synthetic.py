"""Synthetic data of the program families: drawn by a seed, so that each case has data of its own.

Each function takes a random generator and settings and returns inputs and targets; see also `sequences` and `tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.sequences import SEQUENCES
from benchmarks.data.tokens import TOKENS

__all__ = ["SAME_ROWS", "SYNTHETIC", "make_synthetic"]

Draw = np.random.Generator
Pair = tuple[NDArray[Any], NDArray[Any]]

SAME_ROWS = ("gates",)
"""Data sets that are complete: the test rows are the training rows."""


def make_synthetic(name: str, seed: int, settings: Mapping[str, Any]) -> list[NDArray[Any]]:
    """Return inputs and targets for training, then for the test.

    The test has 30 % of the rows drawn, but at least 200: ``train_rows`` of the settings limits the training rows.

    Args:
        name: One of `SYNTHETIC`.
        seed: Determines the draw.
        settings: Keyword arguments of its function, and ``train_rows``.
    """
    options = dict(settings)
    limit = options.pop("train_rows", None)
    x, y = SYNTHETIC[name](np.random.default_rng(seed), **options)
    if name in SAME_ROWS:
        return [x, y, x, y]
    rows = round(0.7 * len(x)) if limit is None else int(limit)
    return [x[:rows], y[:rows], x[rows:], y[rows:]]


def _gates(draw: Draw, operation: str = "xor", signed: bool = False) -> Pair:
    """Return the truth table of a logical operation, of two inputs or (``parity3``, ``majority``) three."""
    bits = 3 if operation in ("parity3", "majority") else 2
    x = np.array([[n >> k & 1 for k in range(bits)] for n in range(2**bits)])
    total = x.sum(1)
    y = {
        "xor": total % 2,
        "xnor": 1 - total % 2,
        "and": total == bits,
        "nand": total != bits,
        "or": total > 0,
        "parity3": total % 2,
        "majority": total > 1,
    }[operation]
    return (2.0 * x - 1 if signed else x.astype(np.float64)), np.asarray(y, np.int64)


def _line(draw: Draw, columns: int = 1, noise: float = 0.02) -> Pair:
    """Draw 300 points of a line or plane in unscaled units: a temperature, a price, a distance."""
    scale, offset = 10 ** draw.uniform(0, 2, columns), draw.uniform(-2, 2, columns)
    z = draw.uniform(-1, 1, (300, columns))
    slope = draw.uniform(0.5, 2, columns) * draw.choice([-1, 1], columns)
    y = z @ slope
    y = (y / y.std() + draw.normal(0, noise, len(y))) * 10 ** draw.uniform(0, 1.5) + draw.uniform(-5, 40)
    return (z + offset) * scale, y[:, None]


def _groups(draw: Draw, classes: int = 2, columns: int = 2, spread: float = 0.45, shares: float = 1.0) -> Pair:
    """Draw 1,200 points around as many centres as there are classes, at least 2 apart; labels 0, 1, ….

    ``shares``: each class has this many times the rows of the next one.
    """
    centres = [draw.normal(0, 1.5, columns)]
    while len(centres) < classes:
        new = draw.normal(0, 1.5 + 0.1 * len(centres), columns)
        if min(np.linalg.norm(new - other) for other in centres) > 2:
            centres.append(new)
        elif draw.random() < 0.02:
            centres = centres[:1]
    weights = shares ** -np.arange(classes)
    y = draw.choice(classes, 1200, p=weights / weights.sum())
    return np.array(centres)[y] + draw.normal(0, spread, (1200, columns)), y


def _labels(draw: Draw, labels: int = 5, columns: int = 12, noise: float = 0.1) -> Pair:
    """Draw 1,000 rows of features and several labels of 0 and 1, each by a threshold on a sum with one product."""
    x = draw.normal(0, 1, (1000, columns))
    value = x @ draw.normal(0, 1, (columns, labels)) / np.sqrt(columns)
    for k in range(labels):
        i, j = draw.choice(columns, 2, replace=False)
        value[:, k] += 0.7 * x[:, i] * x[:, j]
    share = draw.uniform(0.2, 0.5, labels)
    value += draw.normal(0, noise, value.shape)
    return x, (value > np.quantile(value, 1 - share, axis=0).diagonal()).astype(np.int64)


def _scenes(draw: Draw, size: int = 10) -> Pair:
    """Draw 900 grey images (0 – 1), each with any of a bar, a column and a block; three labels of 0 and 1."""
    y = draw.integers(0, 2, (900, 3))
    images = draw.normal(0.2, 0.08, (900, size, size, 1))
    for image, (bar, column, block) in zip(images[..., 0], y, strict=True):
        row, across = draw.integers(0, size, 2)
        if bar:
            image[row] += 0.6
        if column:
            image[:, across] += 0.6
        if block:
            top, left = draw.integers(0, size - 3, 2)
            image[top : top + 3, left : left + 3] += 0.6
    return np.clip(images, 0, 1), y


def _manifold(draw: Draw, columns: int = 20, inner: int = 3, form: str = "unit") -> Pair:
    """Draw 1,000 rows that few inner numbers determine, up to noise.

    ``form``: ``unit`` (0 – 1, many values near the ends), ``bytes`` (0 – 255) or ``wide`` (columns of many scales).
    """
    z = draw.normal(0, 1, (1000, inner))
    hidden = np.tanh(z @ draw.normal(0, 0.8, (inner, 12)))
    x = hidden @ draw.normal(0, 1, (12, columns)) + draw.normal(0, 0.15, (1000, columns))
    if form == "wide":
        x = (x + draw.uniform(-3, 3, columns)) * 10 ** draw.uniform(-1, 3, columns)
    else:
        x = 1 / (1 + np.exp(-x))
    return (np.round(255 * x) if form == "bytes" else x), z


def _surface(draw: Draw, columns: int = 6, outputs: int = 1, noise: float = 0.1, scale: float = 1.0) -> Pair:
    """Draw 1,000 points of smooth functions of a few inputs, in units that differ by column."""
    z = draw.uniform(-1, 1, (1000, columns))
    waves = np.sin(z @ draw.normal(0, 1.3, (columns, 10)) + draw.uniform(0, 3, 10))
    y = waves @ draw.normal(0, 1, (10, outputs))
    y = (y - y.mean(0)) / y.std(0) + draw.normal(0, noise, y.shape)
    return (z + draw.uniform(-2, 2, columns)) * 10 ** draw.uniform(-1, 2, columns), y * scale + 0.5 * scale


def _teacher(draw: Draw, classes: int = 5, columns: int = 10) -> Pair:
    """Draw 1,600 rows labelled by a random network of one hidden layer, with classes of similar size."""
    x = draw.normal(0, 1, (1600, columns))
    value = np.tanh(x @ draw.normal(0, 0.7, (columns, 8))) @ draw.normal(0, 1, (8, classes))
    value = (value - value.mean(0)) / value.std(0)
    return x, value.argmax(1)


def _topics(draw: Draw, words: int = 60, classes: int = 4, length: int = 20, counts: bool = True) -> Pair:
    """Draw 1,000 texts, each on one of several topics, as counts of words or as tokens."""
    base = draw.dirichlet(np.full(words, 0.5))
    topics = 0.6 * base + 0.4 * draw.dirichlet(np.full(words, 0.15), classes)
    y = draw.integers(0, classes, 1000)
    x = np.stack([draw.choice(words, length, p=topics[topic]) for topic in y])
    return (np.stack([np.bincount(row, minlength=words) for row in x]) if counts else x), y


def _customers(draw: Draw, imbalance: float = 0.3) -> Pair:
    """Draw 1,200 rows of a table: four numbers in their own units and two categories one-hot; a label of 0 and 1."""
    age, income = draw.uniform(18, 80, 1200), draw.lognormal(10, 0.5, 1200)
    visits, days = draw.poisson(4, 1200), draw.exponential(200, 1200)
    kind, region = draw.integers(0, 3, 1200), draw.integers(0, 5, 1200)
    value = 0.05 * (age - 45) + 1.5 * (np.log(income) - 10) + 0.4 * (visits - 4) - days / 150
    value = value + draw.normal(0, 1, 3)[kind] + draw.normal(0, 1, 5)[region] + draw.normal(0, 0.3, 1200)
    x = np.column_stack([age, income, visits, days, np.eye(3)[kind], np.eye(5)[region]])
    return x, (value > np.quantile(value, 1 - imbalance)).astype(np.int64)


def _rates(draw: Draw, columns: int = 5) -> Pair:
    """Draw 1,500 counts, from none to some dozens, whose expectation is the exponential of a sum."""
    x = draw.normal(0, 1, (1500, columns))
    value = x @ draw.normal(0, 1, columns)
    return x, draw.poisson(np.exp(1.2 + 0.9 * value / value.std()))[:, None]


def _pairs(draw: Draw, columns: int = 12, classes: int = 5) -> Pair:
    """Draw 1,400 pairs of shape (2, columns), labelled 1 if both are of one class, which few directions tell."""
    mix, centres = draw.normal(0, 1, (8, columns)) / 2, 2.2 * draw.normal(0, 1, (classes, 8))
    first, y = draw.integers(0, classes, 1400), draw.integers(0, 2, 1400)
    second = np.where(y == 1, first, (first + draw.integers(1, classes, 1400)) % classes)
    z = np.stack([centres[first], centres[second]], 1) + draw.normal(0, 0.6, (1400, 2, 8))
    return np.tanh(z @ mix) + draw.normal(0, 0.1, (1400, 2, columns)), y


def _preferences(draw: Draw, columns: int = 8) -> Pair:
    """Draw 1,200 pairs of shape (2, columns), labelled 1 if the first is better by a hidden smooth score."""
    x = draw.normal(0, 1, (1200, 2, columns))
    score = np.tanh(x @ draw.normal(0, 0.6, (columns, 6))) @ draw.normal(0, 1, 6)
    return x, (score[:, 0] > score[:, 1]).astype(np.int64)


def _blots(draw: Draw, size: int = 10, noise: float = 0.3, task: str = "denoise") -> Pair:
    """Draw 500 noisy images of smooth blots; targets: clean images (``denoise``) or masks of 0 and 1 (``mask``)."""
    height, width = np.mgrid[:size, :size]
    clean = np.zeros((500, size, size))
    for image in clean:
        for _ in range(int(draw.integers(1, 4))):
            row, column, radius = *draw.uniform(1, size - 1, 2), draw.uniform(1.2, 2.5)
            image += np.exp(-((height - row) ** 2 + (width - column) ** 2) / (2 * radius**2))
    clean = np.minimum(clean, 1)
    x = (clean + draw.normal(0, noise, clean.shape))[..., None]
    return x, clean[..., None] if task == "denoise" else (clean > 0.5).astype(np.int64)


def _both(draw: Draw, columns: int = 8, classes: int = 3) -> Pair:
    """Draw 1,000 rows with two targets: a class and a value, the two columns of the targets."""
    x = draw.normal(0, 1, (1000, columns))
    hidden = np.tanh(x @ draw.normal(0, 0.7, (columns, 8)))
    scores, value = hidden @ draw.normal(0, 1, (8, classes)), hidden @ draw.normal(0, 1, 8)
    scores, value = (scores - scores.mean(0)) / scores.std(0), (value - value.mean()) / value.std()
    return x, np.column_stack([scores.argmax(1), value + draw.normal(0, 0.1, 1000)])


def _ring(draw: Draw, modes: int = 4) -> Pair:
    """Draw 700 points around as many centres on a circle: what a generator has to imitate."""
    centre = 2 * np.pi * draw.integers(0, modes, 700) / modes + draw.uniform(0, 6)
    x = np.stack([np.cos(centre), np.sin(centre)], 1) * 1.5 + draw.normal(0, 0.15, (700, 2))
    return x, x


def _polynomial(draw: Draw) -> Pair:
    """Draw 300 powers (first to third) of numbers from -π to π, and their sine."""
    x = draw.uniform(-np.pi, np.pi, 300)
    return np.stack([x, x**2, x**3], 1), np.sin(x)[:, None]


SYNTHETIC: Mapping[str, Callable[..., Pair]] = {
    "blots": _blots,
    "both": _both,
    "customers": _customers,
    "gates": _gates,
    "groups": _groups,
    "labels": _labels,
    "line": _line,
    "manifold": _manifold,
    "pairs": _pairs,
    "polynomial": _polynomial,
    "preferences": _preferences,
    "rates": _rates,
    "ring": _ring,
    "scenes": _scenes,
    "surface": _surface,
    "teacher": _teacher,
    "topics": _topics,
    **SEQUENCES,
    **TOKENS,
}
"""Data sets by name."""
