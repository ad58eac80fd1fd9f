"""Saved models load with the safe default of `keras.models.load_model`, or the error says why there is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from autotrainer.backends.keras3.runtime.saving import save_model
from autotrainer.errors import InputError
from autotrainer.reporting.result import Result


def make_result(model: Any) -> Result:
    return Result("healthy", "done", model, None, {"loss": [1.0]}, 0.5, 0.5, None, None, [], None)


def sequential(*parts: Any, shape: tuple[int, ...] = (4,)) -> Any:
    return keras.Sequential([keras.Input(shape), *parts])


def compiled(**options: Any) -> Any:
    model = sequential(layers.Dense(3))
    model.compile("adam", "mse", **options)
    model.train_on_batch(np.ones((2, 4)), np.ones((2, 3)))
    return model


def branched() -> Any:
    one, two = keras.Input((4,), name="one"), keras.Input((4,), name="two")
    shared = layers.Dense(3)
    return keras.Model({"one": one, "two": two}, [layers.Add()([shared(one), shared(two)]), shared(one)])


MODELS: dict[str, Callable[[], Any]] = {
    "sequential": lambda: sequential(layers.Dense(3, "relu"), layers.Dense(1)),
    "branched": branched,
    "compiled": compiled,
    "with metrics": lambda: compiled(metrics=["mae"]),
    "normalized": lambda: sequential(layers.Dense(3), layers.BatchNormalization()),
    "random": lambda: sequential(layers.Dense(3), layers.Dropout(0.5), layers.GaussianNoise(0.1)),
    "recurrent": lambda: sequential(layers.Bidirectional(layers.LSTM(3)), shape=(5, 4)),
    "convolution": lambda: sequential(layers.Conv2D(2, 3), layers.Flatten(), shape=(6, 6, 1)),
    "frozen": lambda: sequential(layers.Dense(3, trainable=False)),
    "half": lambda: sequential(layers.Dense(3, dtype="float16")),
    "bfloat16": lambda: sequential(layers.Dense(3, dtype="bfloat16")),
    "mixed": lambda: sequential(layers.Dense(3, dtype="mixed_float16")),
    "nested": lambda: sequential(sequential(layers.Dense(3)), layers.Dense(1)),
    "names": lambda: sequential(
        layers.Dense(3, name="a b"), layers.Dense(3, name="é\n"), layers.Dense(3, name="\u202e")
    ),
    "no weights": lambda: sequential(layers.ReLU()),
}


@pytest.mark.parametrize("kind", MODELS)
def test_model_loads_with_the_safe_default(kind: str, tmp_path: Path, record_property: Any) -> None:
    model = MODELS[kind]()
    assert save_model(model, tmp_path) == tmp_path / "model.keras"
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == len(model.weights)
    for one, two in zip(loaded.weights, model.weights, strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(two))
    assert os.listdir(tmp_path) == ["model.keras"]
    record_property("attacks", 1)


class Raises(layers.Layer):  # type: ignore[misc]
    """A layer whose own code fails while it is saved."""

    def __init__(self, error: BaseException, where: str) -> None:
        super().__init__()
        self.failure, self.where = error, where

    def call(self, x: Any) -> Any:
        return x

    def get_config(self) -> Any:
        if self.where == "config":
            raise self.failure
        return {}

    def save_own_variables(self, store: Any) -> None:
        if self.where == "weights":
            raise self.failure


def fails_to_save(error: BaseException, where: str, folder: Path) -> BaseException:
    make_result(sequential(layers.Dense(3))).save(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = sequential(Raises(error, where))
    try:
        raise OSError("an error that the user handles here")
    except OSError:
        with pytest.raises(BaseException) as caught:
            make_result(model).save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    return caught.value


@pytest.mark.parametrize("where", ["config", "weights"])
@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("mine"), KeyError("mine"), FileNotFoundError(2, "mine", "/vocabulary.txt"),
        KeyboardInterrupt(), SystemExit(3), MemoryError("mine"), RuntimeError("mine"),
    ],
    ids=repr,
)  # fmt: skip
def test_errors_of_the_user_pass(error: BaseException, where: str, tmp_path: Path, record_property: Any) -> None:
    assert fails_to_save(error, where, tmp_path) is error
    record_property("attacks", 1)


@pytest.mark.parametrize("where", ["config", "weights"])
@pytest.mark.parametrize("error", [TypeError("mine"), ValueError("mine"), NotImplementedError("mine")], ids=repr)
def test_models_that_cannot_be_saved_are_rejected(
    error: Exception, where: str, tmp_path: Path, record_property: Any
) -> None:
    raised = fails_to_save(error, where, tmp_path)
    assert isinstance(raised, InputError)
    assert str(raised).startswith("Sequential can't be saved as .keras: ")
    assert "mine" in str(raised)
    record_property("attacks", 1)


def test_links_in_the_folder_are_replaced(tmp_path: Path, record_property: Any) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "out"
    folder.mkdir()
    victim.write_text("precious")
    names = ("model.keras", "attempts.json", "report.json", "report.html", "plan.json")
    for name in names:
        (folder / name).symlink_to(victim)
    make_result(sequential(layers.Dense(3))).save(folder)
    assert victim.read_text() == "precious"
    assert not any(path.is_symlink() for path in folder.iterdir())
    record_property("attacks", len(names))


def test_threads_save_to_one_folder(tmp_path: Path, record_property: Any) -> None:
    results = [make_result(sequential(layers.Dense(8 + number))) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: results[number % 8].save(tmp_path), range(24)))
    assert keras.models.load_model(tmp_path / "model.keras").output_shape[-1] in range(8, 16)
    assert sorted(os.listdir(tmp_path)) == ["attempts.json", "model.keras", "report.html", "report.json"]
    record_property("attacks", 24)
