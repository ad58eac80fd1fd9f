"""Data of the cases: read or generated, then scaled and encoded as the program does it."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotrainer.errors import DataError
from benchmarks.cases import Program

__all__ = ["Arrays", "data_folder", "load", "split"]


@dataclass(frozen=True, slots=True)
class Arrays:
    """Training and test data as the program feeds them: float32, index targets int64.

    Attributes:
        x_train: Inputs, shape (rows, …); images are (rows, height, width, channels).
        y_train: Targets, encoded.
        x_test: Inputs that training never sees.
        y_test: Their targets, encoded in the same way.
    """

    x_train: NDArray[np.generic]
    y_train: NDArray[np.generic]
    x_test: NDArray[np.generic]
    y_test: NDArray[np.generic]


def data_folder() -> Path:
    """Return the folder of the shared data: ``AUTOTRAINER_DATA``, else ``../shared/data`` beside the checkout.

    Raises:
        DataError: If there is none.
    """
    given = os.environ.get("AUTOTRAINER_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        raise DataError(
            f"no benchmark data at {folder}: set AUTOTRAINER_DATA to the folder that holds real/ and mnist/"
        )
    return folder


def load(program: Program, seed: int) -> Arrays:
    """Return the data of a program.

    Args:
        program: The program.
        seed: Which of the stored draws; those stored once give the same for each seed.

    Raises:
        DataError: If the arrays are not there.
    """
    spec = program.dataset
    if "arrays" in spec:
        raw = _stored(str(spec["arrays"]), seed)
    elif spec["generator"] == "mnist":
        raw = _mnist(int(spec["train_rows"]), int(spec["test_rows"]))
    else:
        raw = _generated(str(spec["generator"]))
    x_train, x_test = _scale(raw.x_train, raw.x_test, str(spec.get("scaling", "raw")))
    y_train, y_test = raw.y_train, raw.y_test
    if spec.get("target_scaling", "raw") != "raw":
        y_train, y_test = _scale(y_train[:, None], y_test[:, None], str(spec["target_scaling"]))
    outputs = next(int(layer["units"]) for layer in reversed(program.layers) if "units" in layer)
    layout = program.layout
    return Arrays(
        x_train.astype(np.float32),
        _encode(y_train, layout, outputs),
        x_test.astype(np.float32),
        _encode(y_test, layout, outputs),
    )


def split(
    x: NDArray[np.generic], y: NDArray[np.generic], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row numbers of a training and a validation part, drawn with a seed."""
    order = np.random.default_rng(seed).permutation(len(x))
    held = max(1, round(share * len(y)))
    return np.sort(order[held:]), np.sort(order[:held])


def _stored(name: str, seed: int) -> Arrays:
    path = data_folder() / "real" / name
    if not path.is_file():
        raise DataError(f"no arrays at {path}: set AUTOTRAINER_DATA to the folder that holds real/")
    with np.load(path) as stored:
        draws = sorted({int(key.rsplit("_", 1)[1]) for key in stored.files})
        draw = draws[seed % len(draws)]
        return Arrays(*(stored[f"{part}_{draw}"] for part in ("x_train", "y_train", "x_test", "y_test")))


def _mnist(train_rows: int, test_rows: int) -> Arrays:
    def read(name: str, rows: int) -> NDArray[np.uint8]:
        path = data_folder() / "mnist" / f"{name}.gz"
        if not path.is_file():
            raise DataError(f"no MNIST at {path}")
        raw = gzip.decompress(path.read_bytes())
        images = raw[3] == 3  # an IDX header: magic number with the rank, then one size per axis
        values = np.frombuffer(raw, np.uint8, offset=16 if images else 8)
        return values.reshape(-1, 784)[:rows] if images else values[:rows]

    return Arrays(
        read("train-images-idx3-ubyte", train_rows),
        read("train-labels-idx1-ubyte", train_rows),
        read("t10k-images-idx3-ubyte", test_rows),
        read("t10k-labels-idx1-ubyte", test_rows),
    )


def _generated(name: str) -> Arrays:
    """Return a data set that needs no file: the first 70 % of its rows are for training.

    ``circle`` and ``blob`` are AUTOTRAINER's, as it draws them; the others are shuffled once.
    """
    from sklearn import datasets

    made: dict[str, Callable[[], tuple[NDArray[np.generic], NDArray[np.generic]]]] = {
        "blob": lambda: datasets.make_blobs(1000, centers=3, n_features=2, cluster_std=2, random_state=2)[:2],
        "cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
        "circle": lambda: datasets.make_circles(1000, noise=0.1, random_state=1),
        "diabetes": lambda: datasets.load_diabetes(return_X_y=True, scaled=False),
        "digit_images": lambda: (datasets.load_digits().images[..., None] / 16, datasets.load_digits().target),
        "digits": lambda: datasets.load_digits(return_X_y=True),
        "friedman": lambda: datasets.make_friedman1(1000, noise=0.5, random_state=0),
        "moons": lambda: datasets.make_moons(1000, noise=0.15, random_state=0),
        "spirals": _spirals,
        "waves": _waves,
        "wine": lambda: datasets.load_wine(return_X_y=True),
    }
    if name not in made:
        raise DataError(f"unknown data set {name!r}: mnist, {', '.join(made)}")
    x, y = made[name]()
    if name not in ("circle", "blob"):
        order = np.random.default_rng(0).permutation(len(x))
        x, y = x[order], y[order]
    rows = round(0.7 * len(x))
    return Arrays(x[:rows], y[:rows], x[rows:], y[rows:])


def _spirals() -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Draw three interleaved spiral arms of 400 points each, with noise."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 400)
    radius = draw.uniform(0.1, 1.0, len(labels))
    angle = 4 * radius + labels * 2 * np.pi / 3 + draw.normal(0, 0.1, len(labels))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), labels


def _waves() -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Draw 1,000 noisy sequences of shape (24, 2): slow waves (label 0) and faster ones (label 1)."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 1000)
    pitch = np.where(labels, draw.uniform(0.5, 0.8, 1000), draw.uniform(0.25, 0.45, 1000))
    angle = pitch[:, None] * np.arange(24) + draw.uniform(0, 2 * np.pi, (1000, 1))
    x = np.stack([np.sin(angle), np.cos(angle)], axis=2)
    return x + draw.normal(0, 0.3, x.shape), labels


def _scale(
    train: NDArray[np.generic], test: NDArray[np.generic], how: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = train.astype(np.float64), test.astype(np.float64)
    if how == "raw":
        return a, b
    if how == "div255":
        return a / 255, b / 255
    if how == "zero_fill_standard":
        a, b = np.where(a == -999, 0.0, a), np.where(b == -999, 0.0, b)
    elif how not in ("standard", "minmax"):
        raise DataError(f"unknown scaling {how!r}: raw, div255, standard, minmax or zero_fill_standard")
    shift, span = (a.min(0), np.ptp(a, axis=0)) if how == "minmax" else (a.mean(0), a.std(0))
    span = np.where(span > 0, span, 1.0)
    return (a - shift) / span, (b - shift) / span


def _encode(y: NDArray[np.generic], layout: str, outputs: int) -> NDArray[np.generic]:
    flat = np.asarray(y)
    if layout == "index":
        return flat.astype(np.int64)
    if layout == "tag_index_plus1":
        return flat.astype(np.int64) + 1
    if layout == "onehot":
        return np.eye(outputs, dtype=np.float32)[flat.astype(np.int64)]
    column = flat.reshape(-1, 1).astype(np.float32)
    if layout in ("binary", "float"):
        return column
    if layout == "float_flat":
        return column[:, 0]
    if layout == "pm1":
        return column * 2 - 1
    raise DataError(f"unknown label encoding {layout!r}")
