"""The two small data sets of the published benchmark, embedded, and new rows of the same distributions as test data."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["TRAIN_ROWS", "DataSplit", "load"]

TRAIN_ROWS = 700
"""The first 700 of 1,000 rows train, the last 300 validate."""

Rows = tuple[NDArray[Any], NDArray[Any]]


class DataSplit(NamedTuple):
    """Training, validation and test rows: inputs of shape (rows, 2), float32, and class indices (rows,), int64."""

    train: Rows
    validation: Rows
    test: Rows


@lru_cache
def load(name: str) -> DataSplit:
    """Return one of the data sets.

    ``circle``: scikit-learn's ``make_circles(1000, noise=0.1, random_state=1)``. ``blob``:
    ``make_blobs(1000, centers=3, n_features=2, cluster_std=2, random_state=2)``. The 1,000 test rows are drawn with
    ``random_state=3`` (around the same centers).

    Args:
        name: ``circle`` or ``blob``.
    """
    content = files("autotrainer.demo").joinpath("data.npz").read_bytes()
    with np.load(BytesIO(content), allow_pickle=False) as arrays:
        x, y = arrays[f"{name}_x"], arrays[f"{name}_y"].astype(np.int64)
        test = arrays[f"{name}_test_x"], arrays[f"{name}_test_y"].astype(np.int64)
    return DataSplit((x[:TRAIN_ROWS], y[:TRAIN_ROWS]), (x[TRAIN_ROWS:], y[TRAIN_ROWS:]), test)
