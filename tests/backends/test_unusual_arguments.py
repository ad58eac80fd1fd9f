"""Valid but unusual arguments are accepted in both frameworks."""

from __future__ import annotations

import collections
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from fractions import Fraction
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

RNG = np.random.default_rng(4)
X = RNG.normal(size=(40, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")
N = len(X)


def read_only(array: Any) -> Any:
    array = array.copy()
    array.flags.writeable = False
    return array


def strided(array: Any) -> Any:
    return np.repeat(array, 2, axis=0)[::2]


class Array(np.ndarray):
    """A subclass of NumPy's array."""


class Wrapped:
    """An object that NumPy can read as an array."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(self.array, dtype)


class Loader:
    """Batches without a length, which can be read again."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class Indexed:
    """Batches by index."""

    def __getitem__(self, index: int) -> Any:
        if index >= 4:
            raise IndexError(index)
        return torch.tensor(X[index * 8 : index * 8 + 8]), torch.tensor(Y[index * 8 : index * 8 + 8])


class Rows(IterableDataset[Any]):
    """Rows without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(torch.tensor(X), torch.tensor(Y), strict=True))


class Metric:
    """A callable object."""

    def __call__(self, y_true: Any, y_pred: Any) -> float:
        return float((y_pred.argmax(1) == y_true).mean())


DATA: dict[str, Callable[[], Any]] = {
    "list of arrays": lambda: [X, Y],
    "lists": lambda: (X.tolist(), Y.tolist()),
    "named tuple": lambda: collections.namedtuple("Data", "x y")(X, Y),
    "tensors": lambda: (torch.tensor(X), torch.tensor(Y)),
    "tensors of TensorFlow": lambda: (tf.constant(X), tf.constant(Y)),
    "variables": lambda: (tf.Variable(X), keras.Variable(Y.astype("int32"))),
    "tensor with a gradient": lambda: (torch.tensor(X, requires_grad=True), Y),
    "parameter": lambda: (nn.Parameter(torch.tensor(X)), Y),
    "double precision": lambda: (X.astype("float64"), Y),
    "half precision": lambda: (X.astype("float16"), Y),
    "double tensors": lambda: (torch.tensor(X).double(), torch.tensor(Y)),
    "half tensors": lambda: (torch.tensor(X).half(), torch.tensor(Y)),
    "longest precision": lambda: (X.astype("longdouble").astype("float64"), Y),
    "integers": lambda: ((X * 10).astype("int32"), Y),
    "small integers": lambda: ((X * 10).astype("int8"), Y.astype("uint8")),
    "booleans": lambda: (X > 0, Y.astype(bool)),
    "targets in a column": lambda: (X, Y.astype("int32")),
    "not contiguous": lambda: (strided(X), strided(Y)),
    "reversed": lambda: (X[::-1], Y[::-1]),
    "column order": lambda: (np.asfortranarray(X), Y),
    "transposed": lambda: (X.T.copy().T, Y),
    "read only": lambda: (read_only(X), read_only(Y)),
    "big endian": lambda: (X.astype(">f4"), Y.astype(">i8")),
    "subclass": lambda: (X.view(Array), Y.view(Array)),
    "masked arrays": lambda: (np.ma.array(X), Y),
    "readable as an array": lambda: (Wrapped(X), Wrapped(Y)),
    "without weights": lambda: (X, Y, None),
    "with weights": lambda: (X, Y, np.ones(N)),
    "with whole weights": lambda: (X, Y, np.ones(N, "int64")),
    "with weights of 0": lambda: (X, Y, np.arange(N) % 2),
    "with a list of weights": lambda: (X, Y, [1.0] * N),
    "some NaN": lambda: (np.where(np.arange(N)[:, None] == 3, np.nan, X).astype("float32"), Y),
    "one class less in validation": lambda: (X, Y),
}
OPTIONS: dict[str, dict[str, Callable[[], Any]]] = {
    "NumPy integers": {"epochs": lambda: np.int64(1), "batch_size": lambda: np.uint8(16), "seed": lambda: np.int32(3)},
    "tensors": {"epochs": lambda: torch.tensor(1), "batch_size": lambda: tf.constant(16)},
    "arrays of rank 0": {"epochs": lambda: np.array(1), "seed": lambda: np.array(2)},
    "NumPy booleans": {"repair": lambda: np.True_, "progress": lambda: np.False_, "extra_memory": lambda: np.True_},
    "a large seed": {"seed": lambda: 2**40},
    "a batch larger than the data": {"batch_size": lambda: 10**6},
    "batches of one": {"batch_size": lambda: 1, "epochs": lambda: 1},
    "a fraction as a budget": {"budget": lambda: Fraction(3, 2)},
    "a NumPy budget": {"budget": lambda: np.float32(1.5)},
    "an infinite budget": {"budget": lambda: float("inf"), "repair": lambda: False},
    "a duration as a budget": {"budget": lambda: timedelta(hours=1), "repair": lambda: False},
    "no budget": {"budget": lambda: None, "repair": lambda: False},
    "names as a set": {"select": lambda: {"nonfinite"}, "ignore": lambda: frozenset({"AT4"})},
    "names as a generator": {"select": lambda: (name for name in ("nonfinite",)), "forbid": lambda: iter(())},
    "names as keys": {"select": lambda: {"nonfinite": 1}.keys()},
    "a prefix": {"select": lambda: "AT1"},
    "codes in small letters": {"ignore": lambda: ["at1"]},
    "NumPy text": {"strategy": lambda: np.str_("balance"), "metric": lambda: np.str_("accuracy")},
    "a NumPy threshold": {"thresholds": lambda: {"vanishing_gradient.ratio": np.float32(1e-4)}},
    "a whole threshold": {"thresholds": lambda: {"vanishing_gradient.ratio": np.int64(0)}},
    "an alias of a threshold": {"thresholds": lambda: {"beta_1": 1e-4}},
    "a mapping of thresholds": {"thresholds": lambda: types.MappingProxyType({"beta_1": 1e-4})},
    "all layers kept": {"keep": lambda: "*"},
    "patterns": {"keep": lambda: ["?*"]},
    "max_change of NumPy": {"max_change": lambda: np.int64(2)},
    "no arguments": {"fit_args": dict},
    "workers without repair": {"workers": lambda: np.int64(1)},
    "a callable object as a metric": {"metric": Metric},
    "a partial metric": {"metric": lambda: functools.partial(lambda scale, t, p: scale, 1.0)},
    "a builtin as a metric": {"metric": lambda: lambda y_true, y_pred, weights=None: 0.5, "mode": lambda: "min"},
    "a metric that returns NumPy": {"metric": lambda: lambda t, p: np.float32((p.argmax(1) == t).mean())},
    "a metric that returns a tensor": {"metric": lambda: lambda t, p: torch.tensor(0.5)},
    "a metric that returns an array": {"metric": lambda: lambda t, p: np.array(0.5)},
    "a metric that returns an integer": {"metric": lambda: lambda *both: 1},
}


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def keras_net() -> Any:
    layers = keras.layers
    return keras.Sequential([keras.Input((4,)), layers.Dense(4, "relu"), layers.Dense(2, "softmax")])


def compiled(model: Any, loss: Any = "sparse_categorical_crossentropy") -> Any:
    model.compile("adam", loss)
    return model


class Loss(nn.CrossEntropyLoss):
    """A subclass of a loss."""


class Sgd(torch.optim.SGD):
    """A subclass of an optimizer."""


class Named(nn.Module):
    """A model with a dict as input and as output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Any, scale: Any = 1.0) -> Any:
        return self.layer(x) * scale


def step(model: Any, batch: Any) -> Any:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


class KerasLoss(keras.losses.Loss):  # type: ignore[misc]
    """A subclass of a loss."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


class KerasAdam(keras.optimizers.Adam):  # type: ignore[misc]
    """A subclass of an optimizer."""


class Net(keras.Model):  # type: ignore[misc]
    """A subclassed model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = keras.layers.Dense(2, "softmax")

    def call(self, x: Any) -> Any:
        return self.layer(x)


class Sequence(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches by index."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return X[index * 8 : index * 8 + 8], Y[index * 8 : index * 8 + 8]


def adam(params: Any) -> Any:
    return torch.optim.Adam(params, 0.01)


T, L = torch.tensor(X[:8]), torch.tensor(Y[:8])
VALID: dict[str, Callable[[], Any]] = {"validation_data": lambda: (X, Y)}
BUILT: dict[str, Callable[[], Any]] = {"optimizer": lambda: adam}


def pairs() -> Any:
    return tf.data.Dataset.from_tensor_slices((X, Y))


OBJECTS: dict[str, dict[str, dict[str, Callable[[], Any]]]] = {
    "pytorch": {
        "bfloat16": {"train_data": lambda: (X.astype(ml_dtypes.bfloat16).astype("float32"), Y)},
        "a list of batches": {"train_data": lambda: Loader((T, L), [T, L]), **VALID},
        "batches by index": {"train_data": Indexed, **VALID},
        "rows without a length": {"train_data": lambda: DataLoader(Rows(), 8), **VALID},
        "batches of one row": {"train_data": lambda: DataLoader(TensorDataset(T, L), 1), **VALID},
        "a batch of all rows": {"train_data": lambda: DataLoader(TensorDataset(T, L), 100), **VALID},
        "a loader for validation": {"validation_data": lambda: DataLoader(TensorDataset(T, L), 8)},
        "a loader for the test": {"test_data": lambda: DataLoader(TensorDataset(T, L), 8)},
        "arrays for the test": {"test_data": lambda: (X, Y)},
        "a weighted test": {"test_data": lambda: (X, Y, np.ones(N))},
        "weighted validation": {"validation_data": lambda: (X, Y, np.ones(N))},
        "a single validation row": {"validation_data": lambda: (X[:1], Y[:1]), "metric": lambda: "loss"},
        "two rows": {"train_data": lambda: (X[:2], Y[:2]), **VALID},
        "a model class": {"model": lambda: Named, **BUILT},
        "a partial model": {"model": lambda: functools.partial(nn.Linear, 4, 2), **BUILT},
        "a model in double precision": {"model": lambda: net().double(), **BUILT},
        "a partly frozen model": {"model": lambda: net()[0:1].requires_grad_(False).append(nn.Linear(8, 2)), **BUILT},
        "a lazy model": {"model": lambda: nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2)), **BUILT},
        "a model in evaluation mode": {"model": lambda: net().eval(), **BUILT},
        "a dict of inputs": {"model": Named, "train_data": lambda: ({"x": X}, Y), **BUILT},
        "a dict of two inputs": {
            "model": Named, "train_data": lambda: ({"x": X, "scale": np.ones((N, 1), "float32")}, Y), **BUILT
        },
        "a tuple of inputs": {"model": Named, "train_data": lambda: ((X, X[:, :1]), Y), **BUILT},
        "a list of inputs": {"model": Named, "train_data": lambda: ([X, X[:, :1]], Y), **BUILT},
        "a subclassed loss": {"loss": Loss},
        "a loss function": {"loss": lambda: nn.functional.cross_entropy},
        "a partial loss": {"loss": lambda: functools.partial(nn.functional.cross_entropy, label_smoothing=0.1)},
        "a loss by row": {"loss": lambda: nn.CrossEntropyLoss(reduction="none")},
        "a summed loss": {"loss": lambda: nn.CrossEntropyLoss(reduction="sum")},
        "a weighted loss": {"loss": lambda: nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))},
        "a lambda as a loss": {"loss": lambda: lambda o, t: nn.functional.cross_entropy(o, t)},
        "an optimizer class": {"optimizer": lambda: torch.optim.Adam},
        "a subclassed optimizer": {"optimizer": lambda: functools.partial(Sgd, lr=0.1)},
        "an optimizer with options": {"optimizer": lambda: lambda p, lr=0.1: torch.optim.SGD(p, lr)},
        "a rate that is a tensor": {"optimizer": lambda: lambda p: torch.optim.Adam(p, torch.tensor(0.01))},
        "a step": {"step": lambda: step, "loss": lambda: None},
        "a step with outputs": {"step": lambda: lambda m, b: (step(m, b), m(b[0]), b[1])},
        "a step with options": {"step": lambda: lambda model, batch, scale=1.0: step(model, batch)},
        "a scheduler class": {"scheduler": lambda: torch.optim.lr_scheduler.ConstantLR},
        "a partial scheduler": {"scheduler": lambda: functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1)},
    },
    "keras3": {
        "a data set": {"train_data": lambda: pairs().batch(8), **VALID},
        "an infinite data set": {
            **VALID,
            "train_data": lambda: pairs().batch(8).repeat(),
            "fit_args": lambda: {"steps_per_epoch": np.int64(2)},
        },
        "a data set with weights": {
            "train_data": lambda: tf.data.Dataset.from_tensor_slices((X, Y, np.ones(N, "float32"))).batch(8), **VALID
        },
        "batches by index": {"train_data": lambda: Sequence(), **VALID},
        "a loader of PyTorch": {"train_data": lambda: DataLoader(TensorDataset(T, L), 8), **VALID},
        "a data set for validation": {"validation_data": lambda: pairs().batch(8)},
        "a data set for the test": {"test_data": lambda: pairs().batch(8)},
        "arrays for the test": {"test_data": lambda: (X, Y)},
        "a weighted test": {"test_data": lambda: (X, Y, np.ones(N))},
        "weighted validation": {"validation_data": lambda: (X, Y, np.ones(N))},
        "a single validation row": {"validation_data": lambda: (X[:1], Y[:1]), "metric": lambda: "loss"},
        "a model callable": {"model": lambda: lambda: compiled(keras_net())},
        "a model class": {"model": lambda: Net, "loss": KerasLoss, "optimizer": lambda: "sgd"},
        "an unbuilt model": {"model": lambda: compiled(Net())},
        "an unbuilt sequence": {"model": lambda: compiled(keras.Sequential([keras.layers.Dense(2, "softmax")]))},
        "a subclassed loss": {"loss": KerasLoss},
        "a loss function": {"loss": lambda: keras.losses.sparse_categorical_crossentropy},
        "a configured loss": {"loss": lambda: keras.losses.serialize(keras.losses.SparseCategoricalCrossentropy())},
        "a list of one loss": {"loss": lambda: ["sparse_categorical_crossentropy"]},
        "a lambda as a loss": {"loss": lambda: lambda t, p: keras.losses.sparse_categorical_crossentropy(t, p)},
        "a loss in capital letters": {"loss": lambda: "SparseCategoricalCrossentropy"},
        "an optimizer class": {"optimizer": lambda: keras.optimizers.Adam},
        "an optimizer callable": {"optimizer": lambda: functools.partial(keras.optimizers.SGD, 0.1)},
        "a subclassed optimizer": {"optimizer": KerasAdam},
        "a configured optimizer": {"optimizer": lambda: keras.optimizers.serialize(keras.optimizers.Adam())},
        "a schedule": {
            "optimizer": lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9))
        },
        **{
            f"fit_args {i} {name}": {"fit_args": lambda n=name, v=value: {n: v}}  # type: ignore[misc]
            for i, (name, value) in enumerate((
                ("verbose", False), ("shuffle", np.False_), ("shuffle", 1), ("steps_per_epoch", np.int32(1)),
                ("class_weight", {0: 1, 1: 2.5}), ("class_weight", {np.int64(0): np.float32(1)}),
                ("class_weight", None), ("class_weight", {}), ("callbacks", []), ("callbacks", None),
                ("callbacks", lambda: []),
                ("validation_batch_size", 8), ("callbacks", keras.callbacks.Callback()),
                ("callbacks", (keras.callbacks.Callback(),)),
            ))
        },
    },
}  # fmt: skip
CASES = [
    (kit, row, makers)
    for kit in ("pytorch", "keras3")
    for rows in ({row: {"train_data": make} for row, make in DATA.items()}, OPTIONS, OBJECTS[kit])
    for row, makers in rows.items()
]
EAGER = {
    *OPTIONS,
    *("list of arrays", "lists", "named tuple", "tensors", "tensors of TensorFlow", "tensor with a gradient"),
    *("parameter", "longest precision", "not contiguous", "reversed", "column order", "transposed", "read only"),
    *("big endian", "subclass", "masked arrays", "readable as an array", "one class less in validation"),
}
"""What has no part in a compiled step: options, and data that are the same arrays once they are read."""
QUICK = 12
"""One of so many trainings of Keras is quick enough for all of them together."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kit", "row", "makers"),
    [
        pytest.param(
            *case, id=f"{case[0]}-{case[1]}", marks=pytest.mark.slow if case[0] == "keras3" and n % QUICK else ()
        )
        for n, case in enumerate(CASES)
    ],
)
def test_unusual_arguments_are_accepted(
    kits: Any, kit: str, row: str, makers: Mapping[str, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kit == "keras3":
        monkeypatch.setattr(kits[kit].model, "run_eagerly", row in EAGER)
    result = kits[kit].call("fit", **{name: make() for name, make in makers.items()})
    assert len(result.history["loss"]) == 1
