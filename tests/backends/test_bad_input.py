"""Bad input to `fit` raises the same error in both frameworks: what is wrong, and what to pass instead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import autotrainer
from autotrainer.errors import ConfigError, DataError, InputError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")
WRONG = np.where(np.arange(120) == 70, 7, Y)
VALID = (X[80:], Y[80:])


class Once:
    """Batches that can be read only once, although `iter` may be called again."""

    def __init__(self, tensors: bool, batches: int = 40) -> None:
        made = ((X[:16], Y[:16]) for _ in range(batches))
        self.batches: Iterator[Any] = ((torch.tensor(x), torch.tensor(y)) for x, y in made) if tensors else made

    def __iter__(self) -> Iterator[Any]:
        return self.batches


class Torch:
    """Calls of `fit` in PyTorch."""

    def fit(self, train: Any = (X[:80], Y[:80]), validation: Any = VALID, model: Any = None, **options: Any) -> Any:
        torch.manual_seed(0)
        model = model or nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        options = {"loss": nn.CrossEntropyLoss(), "epochs": 2, "budget": 1.0, "progress": False, **options}
        return autotrainer.fit(model, train, validation, optimizer=lambda p: torch.optim.Adam(p, 0.01), **options)

    def stream(self, x: Any, y: Any) -> Any:
        return DataLoader(TensorDataset(torch.tensor(x), torch.tensor(y)), 16)

    def singles(self) -> Any:
        return TensorDataset(torch.tensor(X), torch.tensor(Y))

    def once(self) -> Any:
        class Data(IterableDataset[Any]):
            batches = Once(True)

            def __iter__(self) -> Iterator[Any]:
                return iter(self.batches)

        return DataLoader(Data(), batch_size=None)


class Keras:
    """Calls of `fit` in Keras."""

    def fit(self, train: Any = (X[:80], Y[:80]), validation: Any = VALID, model: Any = None, **options: Any) -> Any:
        keras.utils.set_random_seed(0)
        layers = keras.layers
        model = model or keras.Sequential([keras.Input((4,)), layers.Dense(8, "relu"), layers.Dense(2, "softmax")])
        options = {"loss": "sparse_categorical_crossentropy", "epochs": 2, "budget": 1.0, "progress": False, **options}
        return autotrainer.fit(model, train, validation, optimizer="adam", **options)

    def stream(self, x: Any, y: Any) -> Any:
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(16)

    def singles(self) -> Any:
        return tf.data.Dataset.from_tensor_slices((X, Y))

    def once(self) -> Any:
        batches = Once(False).batches
        signature = (tf.TensorSpec((16, 4)), tf.TensorSpec((16,), tf.int64))
        return tf.data.Dataset.from_generator(lambda: batches, output_signature=signature)


@pytest.fixture(params=[Torch, Keras], ids=["pytorch", "keras3"])
def kit(request: pytest.FixtureRequest) -> Any:
    return request.param()


# -- labels and classes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["train", "validation"])
@pytest.mark.parametrize("stream", [False, True])
def test_labels_out_of_range(kit: Any, argument: str, stream: bool) -> None:
    good, bad = ((kit.stream(X, y) if stream else (X, y)) for y in (Y, WRONG))
    data = {"train": good, "validation": good, argument: bad}
    with pytest.raises(DataError, match="class index 7, but the model has 2 outputs, for classes 0 to 1: number the"):
        kit.fit(**data)


@pytest.mark.parametrize("stream", [False, True])
def test_validation_set_with_one_class(kit: Any, stream: bool) -> None:
    ones = np.flatnonzero(Y == 1)
    held = kit.stream(X[ones], Y[ones]) if stream else (X[ones], Y[ones])
    for metric in ("auto", "accuracy"):
        with pytest.raises(
            DataError, match=r"validation_data holds a single class \(1\), train_data more.* all classes"
        ):
            kit.fit(validation=held, metric=metric)
    kit.fit(validation=held, metric="loss")


def test_auc_with_one_class(kit: Any) -> None:
    with pytest.raises(InputError, match="one of the two classes has no rows"):
        kit.fit(validation=(X[Y == 1], Y[Y == 1]), metric="auc")


def test_one_class_in_all_data_is_a_finding(kit: Any) -> None:
    result = kit.fit((X, np.ones(120, "int64")), (X[:40], np.ones(40, "int64")), budget=1.5)
    assert "unlearnable_targets" in [finding.problem for finding in result.findings]


# -- metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "must return one number, not NoneType"),
        (np.ones(3), r"must return one number, not ndarray of shape \(3,\)"),
        ("0.5", "must return one number, not str"),
        (1 + 2j, "must return one number, not complex"),
        (float("nan"), "returned NaN, although predictions are finite and differ: return a number"),
    ],
)
def test_metric_without_a_valid_number(kit: Any, value: Any, message: str) -> None:
    def mine(y_true: Any, y_pred: Any) -> Any:
        return value

    with pytest.raises(InputError, match=f"metric mine {message}"):
        kit.fit(metric=mine)


def test_metric_may_be_nan_for_constant_predictions(kit: Any) -> None:
    def correlation(y_true: Any, y_pred: Any) -> float:
        with np.errstate(all="ignore"):
            return float(np.corrcoef(y_true, y_pred[:, 1] - y_pred[:, 0])[0, 1])

    result = kit.fit((0 * X[:80], Y[:80]), (0 * X[80:], Y[80:]), metric=correlation)
    assert np.isnan(result.score)


def test_metric_with_one_argument(kit: Any) -> None:
    def mine(y_true: Any) -> float:
        return 1.0

    with pytest.raises(InputError, match="metric must be callable as metric"):
        kit.fit(metric=mine)


# -- data that can be read only once ----------------------------------------------------------------------------------


def test_iterators_and_functions_are_rejected_as_data(kit: Any) -> None:
    for argument in ("train", "validation"):
        message = f"{argument}.* is an iterator, which can be read only once; pass the loader"
        with pytest.raises(DataError, match=message):
            kit.fit(**{argument: (batch for batch in [(X, Y)])})
    with pytest.raises(DataError, match="not function"):
        kit.fit(train=lambda: [(X, Y)])


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("argument", ["train", "validation"])
def test_single_pass_data_set(kit: Any, argument: str) -> None:
    with pytest.raises(DataError, match="can be read only once"):
        kit.fit(**{argument: kit.once(), "epochs": 3})


def test_single_pass_iterable() -> None:
    with pytest.raises(DataError, match=r"the Once yields no batch: .* give a DataLoader"):
        Torch().fit(Once(True))
    with pytest.raises(DataError, match=r"can't train on a Once: give arrays, a tf\.data\.Dataset"):
        Keras().fit(Once(False))


def test_unbatched_samples(kit: Any) -> None:
    with pytest.raises(DataError, match="yields single samples, not batches: give"):
        kit.fit(kit.singles())


# -- models that can't be copied --------------------------------------------------------------------------------------


class Net(nn.Module):
    """A model with an attribute that can't be copied."""

    def __init__(self, held: str, path: Path) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        with path.open("w") as file:
            self.held: Any = {"lock": threading.Lock(), "file": file, "tensor": self.layer.weight * 2}[held]

    def forward(self, x: Any) -> Any:
        return self.layer(x)


@pytest.mark.parametrize("held", ["lock", "file", "tensor"])
def test_uncopyable_pytorch_model(held: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can't be copied.*`held` of Net.*Give a callable that builds the model"):
        Torch().fit(model=Net(held, tmp_path / "log"))
    assert Torch().fit(model=lambda: Net(held, tmp_path / "log")).score > 0


class Locked(keras.Model):  # type: ignore[misc]
    """A subclassed model with an argument that has no configuration."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held, self.layer = held, keras.layers.Dense(2, "softmax")

    def call(self, x: Any) -> Any:
        return self.layer(x)


def test_uncopyable_keras_model(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        for held in (threading.Lock(), file):
            with pytest.raises(
                InputError, match=r"Locked can't be copied .* give a zero-argument callable that builds"
            ):
                Keras().fit(model=Locked(held))
    assert Keras().fit(model=lambda: Locked(threading.Lock())).score > 0


# -- losses and the rest ----------------------------------------------------------------------------------------------


def test_losses_without_a_gradient() -> None:
    with pytest.raises(InputError, match="must return a tensor with a gradient, not float"):
        Torch().fit(loss=lambda outputs, targets: 0.5)
    with pytest.raises(InputError, match="the loss has no gradient: compute it from the model's outputs"):
        Torch().fit(loss=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets).detach())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"train": (X, Y[:-1])}, DataError, "the numbers of rows differ"),
        ({"train": (X, np.array(list("ab") * 60))}, DataError, "targets must be a numeric array"),
        (
            {"train": (X[:80], {"a": Y[:80], "b": Y[:80]})},
            DataError,
            r"a dict of arrays \('a', 'b'\), but .* pass a loader",
        ),
        ({"train": (X[:80], [Y[:80], X[:80]])}, DataError, "train_data: the targets are a list of 2 arrays"),
        ({"validation": (X[80:], (Y[80:], Y[80:]))}, DataError, "validation_data: the targets are a tuple of 2 arrays"),
        ({"train": X}, DataError, r"must be \(x, y\)"),
        ({"train": (X[:, :3], Y)}, DataError, r"validation_data has inputs of shape \(\*, 4\), train_data of"),
        ({"validation": (X[:0], Y[:0])}, DataError, "validation_data"),
        ({"epochs": 0}, ConfigError, "epochs must be a whole number >= 1"),
        ({"budget": 0}, InputError, "allows no work"),
    ],
)
def test_other_invalid_arguments(kit: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kit.fit(**options)


# -- models with several outputs --------------------------------------------------------------------------------------


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 1), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": self.a(x), "b": self.b(x)}


def both_losses(outputs: Any, targets: Any) -> Any:
    a = nn.functional.mse_loss(outputs["a"].squeeze(1), targets["a"])
    return a + nn.functional.cross_entropy(outputs["b"], targets["b"])


def keras_two_outputs() -> Any:
    inputs = keras.Input((4,))
    outputs = {"a": keras.layers.Dense(1, name="a")(inputs), "b": keras.layers.Dense(2, "softmax", name="b")(inputs)}
    model = keras.Model(inputs, outputs)
    model.compile("adam", {"a": "mse", "b": "sparse_categorical_crossentropy"})
    return model


SEVERAL = {"a": X[:, 0], "b": Y}


@pytest.mark.parametrize("framework", ["pytorch", "keras3"])
def test_targets_of_several_outputs_come_in_batches(framework: str) -> None:
    if framework == "pytorch":
        model: Any = TwoOutputs()
        tensors = [torch.tensor(array) for array in (X, X[:, 0], Y)]
        rows: Any = [(x, {"a": a, "b": b}) for x, a, b in zip(*tensors, strict=True)]
        batches: Any = DataLoader(rows, 16)
        options = {"loss": both_losses, "optimizer": torch.optim.Adam(model.parameters(), 0.01)}
    else:
        model, options = keras_two_outputs(), {}
        batches = tf.data.Dataset.from_tensor_slices((X, SEVERAL)).batch(16)
    assert not [finding for finding in autotrainer.check(model, batches, **options) if finding.severity == "error"]
    result = autotrainer.fit(model, batches, batches, epochs=2, repair=False, progress=False, **options)
    assert np.isfinite(result.score)
    with pytest.raises(DataError, match=r"a dict of arrays \('a', 'b'\)"):
        autotrainer.check(model, (X, SEVERAL), **options)
