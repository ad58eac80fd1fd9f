"""Models that are trained in turns by `train_on_batch`: which work against each other, and which together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl

import autotrainer

Turn = tuple[Any, Callable[[], None]]

pytestmark = pytest.mark.skipif(keras.backend.backend() == "jax", reason="loops are not observed on JAX")


def mlp(inputs: int, outputs: int, activation: str = "linear") -> Any:
    return keras.Sequential([keras.Input((inputs,)), kl.Dense(8, "relu"), kl.Dense(outputs, activation)])


def gan(judge_learns: bool) -> Iterator[Turn]:
    generator, judge, z = mlp(4, 2), mlp(2, 1, "sigmoid"), keras.Input((4,))
    both = keras.Model(z, judge(generator(z)))

    def free() -> None:
        judge.trainable = judge_learns

    def freeze() -> None:
        judge.trainable = False

    yield judge, free
    yield both, freeze


def turns_of_two_parts() -> Iterator[Turn]:
    first, second, x = mlp(2, 4), mlp(4, 1, "sigmoid"), keras.Input((2,))
    models = [keras.Model(x, second(first(x))) for _ in range(2)]

    def only(part: Any) -> Callable[[], None]:
        def choose() -> None:
            first.trainable, second.trainable = part is first, part is second

        return choose

    yield models[0], only(first)
    yield models[1], only(second)


def shared_trunk() -> Iterator[Turn]:
    trunk, x = mlp(2, 4), keras.Input((2,))
    for _ in range(2):
        yield keras.Model(x, kl.Dense(1, "sigmoid")(trunk(x))), lambda: None


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda: gan(True), [True, True], id="a GAN"),
        pytest.param(lambda: gan(False), [False, False], id="a GAN whose judge learns nothing"),
        pytest.param(turns_of_two_parts, [False, False], id="two parts of a model in turns"),
        pytest.param(shared_trunk, [False, False], id="two tasks that share layers"),
    ],
)
def test_models_that_work_against_each_other(make: Callable[[], Iterator[Turn]], expected: list[bool]) -> None:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    turns = list(make())
    for model, _ in turns:
        model.compile(keras.optimizers.SGD(0.01), "binary_crossentropy")
    with ExitStack() as stack:
        monitors = [stack.enter_context(autotrainer.watch(model, overhead=1)) for model, _ in turns]
        for _ in range(12):
            for model, prepare in turns:
                prepare()
                x = rng.normal(size=(8, model.input_shape[-1])).astype("float32")
                model.train_on_batch(x, np.ones((8, 1), "float32"))
    assert [monitor.context.optimizer.several for monitor in monitors] == expected
    losses = [np.isfinite(monitor.history.scalar("loss")[2:]).any() for monitor in monitors]
    assert losses == [not each for each in expected]


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_a_model_without_trainable_weights_is_found() -> None:
    keras.utils.set_random_seed(0)
    model = mlp(2, 1, "sigmoid")
    model.trainable = False
    model.compile(keras.optimizers.SGD(0.01), "binary_crossentropy")
    x, y = np.zeros((8, 2), "float32"), np.ones((8, 1), "float32")
    with autotrainer.watch(model, overhead=1, select=["parameters_not_optimized"]) as monitor:
        for _ in range(8):
            model.train_on_batch(x, y)
    assert ["No parameter of the model is trainable" in finding.message for finding in monitor.findings] == [True]
