"""Data that can't be trained on are refused in both frameworks, whichever argument they come in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

RNG = np.random.default_rng(1)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")
N = len(X)


class Batches:
    """An iterable of batches without a length."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class NoRows:
    """Array-like by its name only."""

    shape = (24, 4)
    ndim = 2


ARRAYS: dict[str, Callable[[], Any]] = {
    "inputs alone": lambda: X,
    "a tensor alone": lambda: torch.tensor(X),
    "one item": lambda: (X,),
    "four items": lambda: (X, Y, Y, Y),
    "nothing": lambda: (),
    "fewer targets": lambda: (X, Y[:-1]),
    "more targets": lambda: (X[:-1], Y),
    "no rows": lambda: (X[:0], Y[:0]),
    "no inputs": lambda: (None, Y),
    "no targets": lambda: (X, None),
    "objects as inputs": lambda: (X.astype(object), Y),
    "objects as targets": lambda: (X, Y.astype(object)),
    "text as inputs": lambda: (X.astype(str), Y),
    "text as targets": lambda: (X, Y.astype(str)),
    "bytes as targets": lambda: (X, Y.astype("S")),
    "dates as inputs": lambda: (X.astype("int64").astype("datetime64[s]"), Y),
    "dates as targets": lambda: (X, Y.astype("datetime64[D]")),
    "durations as targets": lambda: (X, Y.astype("timedelta64[s]")),
    "records as inputs": lambda: (np.zeros(N, [("a", "f4"), ("b", "i4")]), Y),
    "records as targets": lambda: (X, np.zeros(N, [("a", "f4")])),
    "raw bytes as inputs": lambda: (np.zeros((N, 4), "V3"), Y),
    "ragged lists": lambda: ([[1.0, 2.0], [1.0]] * 12, Y),
    "ragged targets": lambda: (X, [[1], [1, 2]] * 12),
    "a number as inputs": lambda: (3.0, Y),
    "a number as targets": lambda: (X, 3),
    "array of rank 0 as inputs": lambda: (np.float32(3), Y),
    "array of rank 0 as targets": lambda: (X, np.array(3)),
    "a set": lambda: ({1, 2}, Y),
    "a generator": lambda: ((row for row in X), Y),
    "a function": lambda: (lambda: X, Y),
    "a class": lambda: (dict, Y),
    "texts": lambda: ("inputs", "targets"),
    "an empty dict": lambda: ({}, Y),
    "an empty tuple": lambda: ((), Y),
    "an empty list": lambda: ([], Y),
    "a dict of lists of objects": lambda: ({"x": [object()] * N}, Y),
    "a dict with one short array": lambda: ({"a": X, "b": X[:3]}, Y),
    "a nested dict": lambda: ({"a": {"b": X}}, Y),
    "a nested tuple": lambda: (((X, X), (X, X)), Y),
    "a dict of targets": lambda: (X, {"a": Y, "b": Y}),
    "no features": lambda: (X[:, :0], Y),
    "too many features": lambda: (np.hstack([X, X]), Y),
    "one feature": lambda: (X[:, :1], Y),
    "a further axis": lambda: (X[:, :, None, None], Y),
    "rows alone": lambda: (X[:, 0], Y),
    "array-like by name": lambda: (NoRows(), Y),
    "short weights": lambda: (X, Y, np.ones(3)),
    "long weights": lambda: (X, Y, np.ones(N + 1)),
    "negative weights": lambda: (X, Y, -np.ones(N)),
    "weights of NaN": lambda: (X, Y, np.full(N, np.nan)),
    "infinite weights": lambda: (X, Y, np.full(N, np.inf)),
    "weights of zero": lambda: (X, Y, np.zeros(N)),
    "two weights a row": lambda: (X, Y, np.ones((N, 2))),
    "weights of text": lambda: (X, Y, np.array(["1"] * N)),
    "a weight": lambda: (X, Y, 1.0),
    "complex weights": lambda: (X, Y, np.ones(N, "complex64")),
    "a sparse tensor": lambda: (torch.tensor(X).to_sparse(), Y),
    "a meta tensor": lambda: (torch.empty((N, 4), device="meta"), Y),
    "ragged tensors": lambda: (tf.ragged.constant([[1.0, 2.0], [1.0]] * 12), Y),
    "sparse tensors": lambda: (tf.sparse.from_dense(X), Y),
    "a variable without a value": lambda: (keras.KerasTensor((N, 4)), Y),
}


def loader(*tensors: Any, **options: Any) -> Any:
    return DataLoader(TensorDataset(*map(torch.as_tensor, tensors)), **options)


def pairs(x: Any = X, y: Any = Y) -> Any:
    return tf.data.Dataset.from_tensor_slices((x, y))


class Stream(IterableDataset[Any]):
    """An iterable data set of nothing."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Sequence(keras.utils.PyDataset):  # type: ignore[misc]
    """A data set whose batches are all the same."""

    def __init__(self, batch: Any, length: int = 2) -> None:
        super().__init__()
        self.batch, self.length = batch, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.batch


T, L = torch.tensor(X[:8]), torch.tensor(Y[:8])
STREAMS: dict[str, dict[str, Callable[[], Any]]] = {
    "pytorch": {
        "an iterable data set of nothing": lambda: DataLoader(Stream()),
        "fewer rows than a dropped batch": lambda: loader(X, Y, batch_size=64, drop_last=True),
        "single samples": lambda: TensorDataset(T, L),
        "inputs alone": lambda: loader(X, batch_size=8),
        "three items": lambda: loader(X, Y, Y, batch_size=8),
        "batches of None": lambda: Batches(None, None),
        "batches of numbers": lambda: Batches(1, 2),
        "batches of texts": lambda: Batches(("a", "b"), ("a", "b")),
        "batches of dicts": lambda: Batches({"x": T, "y": L}),
        "batches of tuples": lambda: Batches(((T, T), L)),
        "empty batches": lambda: Batches((), ()),
        "no batches": Batches,
        "batches without rows": lambda: Batches((T[:0], L[:0])),
        "too many features": lambda: loader(np.hstack([X, X]), Y, batch_size=8),
        "integers": lambda: loader(X.astype("int64"), Y, batch_size=8),
        "complex numbers": lambda: loader(X.astype("complex64"), Y, batch_size=8),
        "NumPy arrays": lambda: Batches((X[:8], Y[:8])),
        "inputs of None": lambda: Batches((None, L)),
        "a Keras data set": lambda: pairs().batch(8),
    },
    "keras3": {
        "single samples": pairs,
        "nothing": lambda: pairs().take(0).batch(8),
        "filtered to nothing": lambda: pairs().filter(lambda x, y: False).batch(8),
        "inputs alone": lambda: tf.data.Dataset.from_tensor_slices(X).batch(8),
        "four items": lambda: tf.data.Dataset.from_tensor_slices((X, Y, Y, Y)).batch(8),
        "a dict": lambda: tf.data.Dataset.from_tensor_slices({"x": X, "y": Y}).batch(8),
        "infinite": lambda: pairs().batch(8).repeat(),
        "too many features": lambda: pairs(np.hstack([X, X])).batch(8),
        "texts": lambda: pairs(X.astype(str)).batch(8),
        "a data set without batches": lambda: Sequence((X, Y), 0),
        "batches of None": lambda: Sequence(None),
        "batches of numbers": lambda: Sequence(3),
        "batches of texts": lambda: Sequence(("a", "b")),
        "empty batches": lambda: Sequence(()),
        "batches without rows": lambda: Sequence((X[:0], Y[:0])),
        "targets of None": lambda: Sequence((X[:8], None)),
        "inputs of None": lambda: Sequence((None, Y[:8])),
        "a list of None": lambda: [None, None],
        "no batches": Batches,
        "lists in batches": lambda: Sequence(([[1.0] * 4] * 8, [0] * 8)),
    },
}
ARGUMENTS = (("fit", "train_data"), ("fit", "validation_data"), ("fit", "test_data"), ("check", "train_data"))
# Rows that an argument takes.
TAKEN: Mapping[tuple[str, str, str], set[str]] = {
    ("pytorch", "check", "train_data"): {"three items"},  # the first two
    ("keras3", "check", "train_data"): {"infinite"},  # the first batches
}


@pytest.mark.parametrize("kind", ["arrays", "streams"])
@pytest.mark.parametrize(("call", "argument"), ARGUMENTS, ids=lambda value: str(value))
@pytest.mark.parametrize("kit", ["pytorch", "keras3"])
def test_bad_data_are_refused(
    kits: Any, kit: str, call: str, argument: str, kind: str, record_property: Callable[[str, Any], None]
) -> None:
    rows = ARRAYS if kind == "arrays" else STREAMS[kit]
    taken = TAKEN.get((kit, call, argument), set())
    mistakes: list[str] = []
    for label, make in rows.items():
        if label in taken:
            continue
        others = {"validation_data": (X, Y)} if call == "fit" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problem = kits[kit].refuses(call, argument, **{**others, argument: make()})
        if problem:
            mistakes.append(f"{call}({argument}=<{label}>) {problem}")
    record_property("attacks", len(rows) - len(taken))
    assert not mistakes, "\n" + "\n".join(mistakes)
