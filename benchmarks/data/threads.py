"""Stand-ins for the data of programs from questions and issues: same kind, scale and labels, fewer rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["THREADS"]

Array = NDArray[Any]
Pair = tuple[Array, Array]


def _draw() -> np.random.Generator:
    return np.random.default_rng(0)


def _bits_to_value(rows: int, bits: int, shift: float, scale: float) -> Pair:
    """Draw bit vectors and a real value of the first twelve bits, partly by pairs."""
    draw = _draw()
    x = draw.integers(0, 2, (rows, bits))
    value = x[:, :12] @ draw.normal(0, 1, 12) + x[:, 0] * x[:, 1] - x[:, 2] * x[:, 3]
    return x, shift + scale * (value - value.mean()) / value.std() + draw.normal(0, 0.1 * scale, rows)


def _two_bits() -> Pair:
    """Repeat the four pairs of bits, with the numbers 1 – 4 as targets."""
    x = np.tile(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), (40, 1))
    return x, 1 + 2 * x[:, 0] + x[:, 1]


def _xor() -> Pair:
    x = np.tile(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), (50, 1))
    return x, x[:, 0] ^ x[:, 1]


def _even_numbers() -> Pair:
    """Return the numbers 0 – 99 as eight bits, labelled 1 if even."""
    numbers = np.arange(100)
    return (numbers[:, None] >> np.arange(7, -1, -1)) & 1, 1 - numbers % 2


def _threshold() -> Pair:
    """Draw whole numbers below 100,000, labelled 1 from 50,000."""
    x = _draw().integers(0, 100_000, (2000, 1))
    return x, (x[:, 0] >= 50_000).astype(np.int64)


def _clusters() -> Pair:
    """Draw points in the unit square, near the origin (label 0) or far from it (label 1)."""
    draw = _draw()
    labels = draw.integers(0, 2, 200)
    return np.where(labels[:, None] == 1, draw.uniform(0.35, 0.9, (200, 2)), draw.uniform(0, 0.24, (200, 2))), labels


def _televisions() -> Pair:
    """Draw people per television (1 – 600) and life expectancy of 120 countries."""
    draw = _draw()
    people = np.exp(draw.uniform(0.2, 6.4, 120))
    return people[:, None], 78 - 0.035 * people - 2 * np.log10(people) + draw.normal(0, 3, 120)


def _curve(low: float, high: float, rows: int, function: Callable[[Array], Array]) -> Pair:
    x = np.linspace(low, high, rows)
    return x[:, None], function(x)


def _sine_powers() -> Pair:
    """Return x² and x for x in [2, 5], and a noisy sine."""
    x = np.linspace(2, 5, 60)
    return np.stack([x**2, x], axis=1), np.sin(x) + _draw().normal(0, 0.1, 60)


def _squares() -> Pair:
    x = _draw().random((1000, 2))
    return x, (x**2).sum(1)


def _plane() -> Pair:
    draw = _draw()
    x = draw.normal(0, 1, (143, 2))
    return x, 10 + 9 * x[:, 0] - 2 * x[:, 1] + draw.normal(0, 1, 143)


def _three_inputs() -> Pair:
    """Draw three positive inputs and a target between about -50 and 50."""
    draw = _draw()
    x = draw.uniform(0, 1, (600, 3))
    return x, 60 * (x[:, 0] - 0.5) + 50 * (x[:, 1] - 0.5) * (x[:, 2] - 0.2) + draw.normal(0, 2, 600)


def _marks() -> Pair:
    """Draw hours slept, studied, used electronics and played, and the marks out of 50 in a test."""
    draw = _draw()
    x = draw.uniform((3, 0, 0, 0), (10, 9, 6, 5), (400, 4))
    marks = 18 + 2.8 * x[:, 1] + 1.2 * x[:, 0] - 1.8 * x[:, 2] - 1.5 * x[:, 3] + draw.normal(0, 2, 400)
    return x, marks.clip(0, 50)


def _many_columns() -> Pair:
    """Draw 60 columns and a target of about 50,000 ± 10,000, mostly linear."""
    draw = _draw()
    x = draw.normal(0, 1, (1500, 60))
    value = x @ draw.normal(0, 1, 60) / np.sqrt(60) + draw.normal(0, 0.5, 1500)
    return x, 50_000 + 10_000 * value


def _classes(rows: int, columns: int, informative: int, classes: int, separation: float) -> Callable[[], Pair]:
    def make() -> Pair:
        from sklearn.datasets import make_classification

        x, y = make_classification(
            rows,
            columns,
            n_informative=informative,
            n_redundant=0,
            n_classes=classes,
            n_clusters_per_class=1,
            class_sep=separation,
            flip_y=0.02,
            random_state=0,
        )
        return x, y

    return make


def _tags() -> Pair:
    """Draw 1,500 bags of 120 words with 11 labels, about three per row."""
    draw = _draw()
    labels = (draw.random((1500, 11)) < 0.27).astype(np.int64)
    words = np.zeros((1500, 120), np.int64)
    for label in range(11):
        own = slice(8 * label, 8 * label + 8)
        words[:, own] |= (draw.random((1500, 8)) < np.where(labels[:, [label]] == 1, 0.5, 0.04)).astype(np.int64)
    words[:, 88:] = draw.random((1500, 32)) < 0.1
    return words, labels


def _topics(classes: int) -> Callable[[], Pair]:
    """Draw 1,500 texts of 20 of 60 words, labelled by the topic of most of the words 1 – 40."""

    def make() -> Pair:
        draw = _draw()
        labels = draw.integers(0, classes, 1500)
        size = 40 // classes
        x = draw.integers(1, 60, (1500, 20))
        topical = 1 + size * labels[:, None] + draw.integers(0, size, x.shape)
        return np.where(draw.random(x.shape) < 0.3, topical, x), labels

    return make


def _word_vectors() -> Pair:
    """Return the texts of three topics as sequences of fixed random vectors, shape (20, 16)."""
    x, y = _topics(3)()
    return _draw().normal(0, 0.5, (60, 16))[x], y


def _windows(series: Array, length: int) -> Pair:
    starts = np.arange(len(series) - length)
    return series[starts[:, None] + np.arange(length)], series[starts + length]


def _series(columns: int, rows: int, length: int, low: float, high: float) -> Callable[[], Pair]:
    """Draw slow noisy waves between two values: windows, and the next value of each column."""

    def make() -> Pair:
        draw = _draw()
        time = np.arange(rows + length)[:, None]
        periods, phases = draw.uniform(14, 60, (2, columns)), draw.uniform(0, 6, (2, columns))
        values = sum(np.sin(2 * np.pi * time / p + f) for p, f in zip(periods, phases, strict=True))
        values = values / 4 + 0.5 + draw.normal(0, 0.02, values.shape)
        return _windows(low + (high - low) * values, length)

    return make


def _saw() -> Pair:
    """Return two saw-like columns, 1 to 10 and back: windows of 20 steps, and the next values."""
    time = np.arange(820)
    rising = 1 + time % 10
    return _windows(np.stack([rising, 11 - rising], axis=1), 20)


def _tempo() -> Pair:
    """Draw 800 noisy waves of shape (24, 2), and their frequency."""
    draw = _draw()
    pitch = draw.uniform(0.2, 1.0, 800)
    angle = pitch[:, None] * np.arange(24) + draw.uniform(0, 2 * np.pi, (800, 1))
    x = np.stack([np.sin(angle), np.cos(angle)], axis=2)
    return x + draw.normal(0, 0.2, x.shape), 5 * (pitch - 0.6)


def _motions() -> Pair:
    """Draw 1,200 three-axis signals of 32 steps: six motions that differ in frequency, strength and offset."""
    draw = _draw()
    labels = draw.integers(0, 6, 1200)
    pitch = np.array([0.3, 0.5, 0.7, 0.9, 0.4, 0.6])[labels] * draw.normal(1, 0.05, 1200)
    strength = np.array([1, 1, 1, 1, 0.5, 0.5])[labels]
    angle = pitch[:, None] * np.arange(32) + draw.uniform(0, 2 * np.pi, (1200, 1))
    x = np.stack([np.sin(angle), np.cos(angle), np.sin(2 * angle)], axis=2) * strength[:, None, None]
    x[:, :, 2] += np.array([0, 0.5, 0, 0.5, 0.5, 0])[labels, None]
    return x + draw.normal(0, 0.4, x.shape), labels


def _genes() -> Pair:
    """Draw expression values of 60 genes, 0 to some 100,000, from four factors; targets are the inputs."""
    draw = _draw()
    factors = draw.normal(0, 1, (1000, 4))
    logs = factors @ draw.normal(0, 0.6, (4, 60)) + draw.uniform(3, 8.5, 60) + draw.normal(0, 0.1, (1000, 60))
    x = np.exp(logs)
    return x, x


def _some_digits(classes: int) -> Callable[[], Pair]:
    def make() -> Pair:
        from sklearn.datasets import load_digits

        digits = load_digits()
        chosen = digits.target < classes
        return digits.images[chosen][..., None] / 16, digits.target[chosen]

    return make


def _digit_strips() -> Pair:
    """Return digits as sequences of 64 pixels, 0 – 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.data * 15.9375)[:, :, None], digits.target


THREADS: Mapping[str, Callable[[], Pair]] = {
    "bits_value": lambda: _bits_to_value(1500, 30, 300, 60),
    "bits_value_small": lambda: _bits_to_value(1500, 20, 0, 5),
    "clusters": _clusters,
    "columns106": _classes(1500, 106, 15, 2, 2.0),
    "columns136": _classes(3000, 136, 40, 21, 2.0),
    "columns7": _classes(86, 7, 5, 2, 1.6),
    "cubic": lambda: _curve(-1000, 1000, 100, lambda x: 2 * x**3 + 7 * x**2 - 8 * x + 120),
    "digit_strips": _digit_strips,
    "digits5": _some_digits(5),
    "even_numbers": _even_numbers,
    "genes": _genes,
    "line200": lambda: _curve(0, 199, 200, lambda x: 2 * x),
    "line7": lambda: _curve(-1, 5, 28, lambda x: 2 * x - 1),
    "many_columns": _many_columns,
    "marks": _marks,
    "motions": _motions,
    "parabola": lambda: _curve(30, 50, 60, lambda x: x**2 / 64 - 5 * x / 4 + 25),
    "plane": _plane,
    "power4": lambda: _curve(-100, 100, 1000, lambda x: x**4),
    "prices": _series(1, 1200, 30, 3000, 50_000),
    "saw": _saw,
    "series5": _series(5, 2000, 30, 0, 1),
    "sine_powers": _sine_powers,
    "squares": _squares,
    "post_tags": _tags,
    "televisions": _televisions,
    "tempo": _tempo,
    "three_inputs": _three_inputs,
    "threshold": _threshold,
    "topics2": _topics(2),
    "topics4": _topics(4),
    "two_bits": _two_bits,
    "walks": _series(1, 1200, 24, -1, 1),
    "word_vectors": _word_vectors,
    "xor": _xor,
}
"""Data sets by name."""
