"""The layer that makes the output of a Keras model gets another number of units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from autotrainer.backends.keras3.surgery.surgery import Surgeon, apply_edits
from autotrainer.edits import ResizeOutputLayer, ScaleInputs, SetOutputActivation
from autotrainer.errors import ConfigError

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def plain(units: int = 2, activation: str | None = None) -> Any:
    hidden = layers.Dense(8, "relu", name="first")
    return keras.Sequential([keras.Input((4,)), hidden, layers.Dense(units, activation, name="out")])


def functional() -> Any:
    inputs = keras.Input((4,))
    sides = [layers.Dense(8, "relu", name=name)(inputs) for name in ("left", "right")]
    return keras.Model(inputs, layers.Softmax()(layers.Dense(2, name="out")(layers.Concatenate()(sides))))


def parametric() -> Any:
    """An activation with a weight for each unit behind the output layer."""
    return keras.Sequential([keras.Input((4,)), *plain().layers, layers.PReLU(name="slopes")])


def steps() -> Any:
    last = layers.TimeDistributed(layers.Dense(2, name="inner"), name="out")
    return keras.Sequential([keras.Input((4,)), layers.Reshape((2, 2)), last])


def image() -> Any:
    return keras.Sequential([keras.Input((4,)), layers.Reshape((2, 2, 1)), layers.Conv2D(2, 1, name="out")])


def frozen() -> Any:
    model = plain()
    model.layers[-1].trainable = False
    return model


def twice() -> Any:
    inputs, shared = keras.Input((2,)), layers.Dense(2, name="out")
    return keras.Model(inputs, shared(shared(inputs)))


def two_outputs() -> Any:
    inputs = keras.Input((4,))
    return keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(2)(inputs)])


class Code(keras.Model):
    """A model without a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.out = layers.Dense(2)

    def call(self, inputs: Any) -> Any:
        return self.out(inputs)


def coded() -> Any:
    model = Code()
    model(X)
    return model


@pytest.mark.parametrize("build", [plain, functional, parametric, steps, image])
def test_wider_output(build: Callable[[], Any]) -> None:
    model = build()
    before = np.asarray(model(X))
    surgeon = Surgeon(model)
    surgeon.check(ResizeOutputLayer(3))
    np.testing.assert_array_equal(np.asarray(model(X)), before)
    edit = surgeon.apply(ResizeOutputLayer(3))
    assert edit.layers[0].endswith("out" if build is not steps else "inner")
    assert np.asarray(surgeon.model(X)).shape == (*before.shape[:-1], 3)
    again, _ = apply_edits((edit,), build())
    assert [w.shape for w in again.weights] == [w.shape for w in surgeon.model.weights]


def test_units_that_remain_keep_their_weights() -> None:
    model = plain(4)
    kernel, bias = (np.asarray(w) for w in model.layers[-1].get_weights())
    model.layers[-1].bias.assign(bias + 1)
    wider, _ = apply_edits((ResizeOutputLayer(9),), model)
    out = wider.get_layer("out")
    np.testing.assert_array_equal(np.asarray(out.kernel)[:, :4], kernel)
    np.testing.assert_array_equal(np.asarray(out.bias), [1] * 4 + [0] * 5)
    limit = np.sqrt(6 / (8 + 9))  # Glorot uniform, the default of the layer
    assert 0 < np.abs(np.asarray(out.kernel)[:, 4:]).max() <= limit
    narrower, _ = apply_edits((ResizeOutputLayer(2, ("out",)),), wider)
    np.testing.assert_array_equal(np.asarray(narrower.get_layer("out").kernel), kernel[:, :2])
    np.testing.assert_array_equal(np.asarray(narrower.get_layer("first").kernel), np.asarray(model.layers[0].kernel))


def test_a_single_unit_belongs_to_no_class_alone() -> None:
    model = plain(1, "sigmoid")
    edits = (SetOutputActivation("softmax"), ScaleInputs((0.0,) * 4, (2.0,) * 4), ResizeOutputLayer(3))
    changed, _ = apply_edits(edits, model)
    assert not np.isin(np.asarray(model.layers[-1].kernel), np.asarray(changed.get_layer("out").kernel)).any()
    np.testing.assert_allclose(np.asarray(changed(X)).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "edit", "keep", "says"),
    [
        (plain, ResizeOutputLayer(2), (), "has 2 units already"),
        (plain, ResizeOutputLayer(3), ("out",), "keep='out' protects"),
        (plain, ResizeOutputLayer(3, ("first",)), (), "`first` does not make the output"),
        (plain, ResizeOutputLayer(3, ("no",)), (), "no layer named 'no'"),
        (parametric, ResizeOutputLayer(3), ("slopes",), "slopes would have to change"),
        (frozen, ResizeOutputLayer(3), (), "frozen"),
        (twice, ResizeOutputLayer(3), (), "used more than once"),
        (two_outputs, ResizeOutputLayer(3), (), "several outputs"),
        (coded, ResizeOutputLayer(3), (), "is code"),
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Reshape((2, 2))]),
         ResizeOutputLayer(3), (), "fixed"),
        (lambda: keras.Sequential([keras.Input((4, 1)), layers.LSTM(2)]), ResizeOutputLayer(3), (), "not made by"),
    ],
)  # fmt: skip
def test_refused_widths_have_a_reason(build: Any, edit: ResizeOutputLayer, keep: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Surgeon(build(), keep).check(edit)
