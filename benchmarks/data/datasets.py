"""Data of the cases: loaded or generated, then scaled and encoded as the case describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.errors import DataError
from benchmarks.cases.case import Program
from benchmarks.data.builtin import make_builtin
from benchmarks.data.files import FILES, data_folder, read_files

__all__ = ["Arrays", "data_folder", "load", "split"]


@dataclass(frozen=True, slots=True)
class Arrays:
    """Training and test data as the program uses them: float32; tokens and index targets int64.

    Attributes:
        x_train: Inputs, shape (rows, …); images are (rows, height, width, channels).
        y_train: Targets, encoded.
        x_test: Inputs not used in training.
        y_test: Their targets, encoded alike.
    """

    x_train: NDArray[np.generic]
    y_train: NDArray[np.generic]
    x_test: NDArray[np.generic]
    y_test: NDArray[np.generic]


def load(program: Program, seed: int) -> Arrays:
    """Return the data of a program.

    Args:
        program: The program.
        seed: Selects one of the stored draws; data stored once are the same for each seed.

    Raises:
        DataError: If the arrays are not available.
    """
    spec = program.dataset
    if "arrays" in spec:
        raw = _stored(str(spec["arrays"]), seed)
    elif spec["generator"] in FILES:
        limits = int(spec.get("train_rows", 3000)), int(spec.get("test_rows", 1000))
        raw = Arrays(*read_files(str(spec["generator"]), *limits))
    else:
        raw = Arrays(*make_builtin(str(spec["generator"])))
    x_train, x_test = raw.x_train, raw.x_test
    if "shape" in spec:
        x_train, x_test = (x.reshape(len(x), *spec["shape"]) for x in (x_train, x_test))
    tokens = spec.get("scaling") == "tokens"
    if not tokens:
        scaled = _scale(x_train, x_test, str(spec.get("scaling", "raw")))
        x_train, x_test = scaled[0], scaled[1] if spec.get("test_scaled", True) else x_test
    y_train, y_test = raw.y_train, raw.y_test
    if spec.get("targets") == "inputs":
        y_train, y_test = x_train, x_test
    elif spec.get("target_scaling", "raw") != "raw":
        columns = [y.reshape(len(y), -1) for y in (y_train, y_test)]
        y_train, y_test = _scale(columns[0], columns[1], str(spec["target_scaling"]))
    x_train, y_train = _inject_faults(x_train, y_train, spec)
    kind = np.int64 if tokens else np.float32
    outputs = next((int(layer["units"]) for layer in reversed(program.layers) if "units" in layer), 1)
    layout = program.layout
    return Arrays(
        x_train.astype(kind),
        _encode(y_train, layout, outputs),
        x_test.astype(kind),
        _encode(y_test, layout, outputs),
    )


def split(
    x: NDArray[np.generic], y: NDArray[np.generic], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row numbers of a training and a validation part, drawn with a seed."""
    order = np.random.default_rng(seed).permutation(len(x))
    count = max(1, round(share * len(y)))
    return np.sort(order[count:]), np.sort(order[:count])


def _stored(name: str, seed: int) -> Arrays:
    paths = [data_folder() / folder / name for folder in ("real", "real2")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise DataError(f"no arrays at {paths[0]}: set AUTOTRAINER_DATA to the folder that holds real/ and real2/")
    with np.load(path) as stored:
        draws = sorted({int(key.rsplit("_", 1)[1]) for key in stored.files})
        draw = draws[seed % len(draws)]
        return Arrays(*(stored[f"{part}_{draw}"] for part in ("x_train", "y_train", "x_test", "y_test")))


def _inject_faults(
    x: NDArray[np.generic], y: NDArray[np.generic], spec: Mapping[str, Any]
) -> list[NDArray[np.generic]]:
    """Return training rows with faults: classes thinned or absent, rows sorted, labels apart, values missing."""
    draw = np.random.default_rng(0)
    selected = np.arange(len(x))
    if spec.get("rare"):  # the share kept of each class but the first
        selected = selected[(y == 0) | (draw.random(len(y)) < spec["rare"])]
    if "without" in spec:  # a class that has no training rows
        selected = selected[y[selected] != spec["without"]]
    if spec.get("order") == "by_label":
        selected = selected[np.argsort(y[selected], kind="stable")]
    x, y = x[selected].copy(), y[selected]
    if spec.get("order") == "apart":  # labels in another order than their inputs
        y = y[draw.permutation(len(y))]
    if spec.get("missing"):  # number of rows that lack one value
        flat = x.reshape(len(x), -1)
        rows = draw.permutation(len(x))[: int(spec["missing"])]
        flat[rows, draw.integers(flat.shape[1], size=len(rows))] = np.nan
    return [x, y]


def _scale(
    train: NDArray[np.generic], test: NDArray[np.generic], scaling: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = train.astype(np.float64), test.astype(np.float64)
    if scaling == "raw":
        return a, b
    if scaling == "div255":
        return a / 255, b / 255
    if scaling == "zero_fill_standard":
        a, b = np.where(a == -999, 0.0, a), np.where(b == -999, 0.0, b)
    shift, span = (a.min(0), np.ptp(a, axis=0)) if scaling == "minmax" else (a.mean(0), a.std(0))
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
    if layout == "values":
        return flat.astype(np.float32)
    column = flat.reshape(len(flat), -1).astype(np.float32)
    if layout in ("binary", "float", "index_as_float", "multi_binary"):
        return column
    if layout == "float_flat":
        return column[:, 0]
    if layout == "pm1":
        return column * 2 - 1
    if layout == "binary_plus1":
        return column + 1
    raise DataError(f"unknown label encoding {layout!r}")
