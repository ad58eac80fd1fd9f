"""Models with a training step of their own: which loss it computes, and trainings with Keras' own step instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import autotrainer
from autotrainer.adapter.spec import FitRequest
from autotrainer.backends.keras3.surgery.own_step import loss_of_step, loss_text
from autotrainer.backends.keras3.surgery.surgery import apply_edits
from autotrainer.backends.keras3.training.trainer import make_trainer
from autotrainer.edits import Edit, ScaleInputs, SetLoss, StandardStep
from autotrainer.errors import ConfigError
from autotrainer.records.data import ArrayData

RNG = np.random.default_rng(0)
X = RNG.normal(size=(900, 8)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype("int64")
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Stepping(keras.Model):
    """Stops the gradient of its hidden layers, unless it is right; or what a test makes of the loss."""

    def __init__(self, *, right: bool = False, loss: Callable[..., Any] = CE) -> None:
        super().__init__()
        self.hidden, self.more, self.out = layers.Dense(2, "tanh"), layers.Dense(16, "tanh"), layers.Dense(2)
        self.right, self.own_loss = right, loss

    def call(self, x: Any, training: bool = False) -> Any:
        return self.out(self.more(self.hidden(x)))

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            features = self.more(self.hidden(x))
            loss = self.own_loss(y, self.out(features if self.right else tf.stop_gradient(features)))
        variables = self.trainable_variables
        pairs = zip(tape.gradient(loss, variables), variables, strict=True)
        self.optimizer.apply_gradients([pair for pair in pairs if pair[0] is not None])
        return {"loss": loss}


def compiled(**options: Any) -> Any:
    model = Stepping(**options)
    model.compile(keras.optimizers.Adam(5e-3))
    model(X[:2])
    return model


@pytest.mark.parametrize("right", [True, False])
def test_step_that_stops_a_gradient_is_replaced(*, right: bool) -> None:
    keras.utils.set_random_seed(0)
    result = autotrainer.fit(
        lambda: compiled(right=right), (X[:600], Y[:600]), (X[600:], Y[600:]), epochs=15, budget=3.0, progress=False
    )
    assert result.status == ("healthy" if right else "repaired")
    assert result.score > 0.85
    step = "SparseCategoricalCrossentropy(from_logits=True)"
    assert (step in str(result.plan)) is not right
    assert (type(result.model).train_step is keras.Model.train_step) is not right


def test_loss_is_that_which_the_step_calls() -> None:
    loss = loss_of_step(compiled(), ArrayData(X, Y))
    assert loss_text(loss) == "keras.losses.SparseCategoricalCrossentropy(from_logits=True)"
    by_row = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    loss = loss_of_step(compiled(loss=lambda y, z: tf.reduce_mean(by_row(y, z))), ArrayData(X, Y))
    assert loss.reduction == "sum_over_batch_size"


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (lambda y, z: CE(y, z) + CE(y, z / 2), "a single loss"),
        (lambda y, z: CE(1 - y, z), "other values"),
        (lambda y, z: CE(y, z) + 0.1 * tf.reduce_mean(z**2), "more than its loss"),
        (lambda y, z: tf.reduce_mean(z**2), "a single loss"),
        (lambda y, z: y.missing, "can't be tried"),
    ],
)
def test_steps_that_compute_more_are_kept(loss: Callable[..., Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        loss_of_step(compiled(loss=loss), ArrayData(X, Y))


@keras.saving.register_keras_serializable("tests")
class Saved(Stepping):
    def __init__(self, **_: Any) -> None:
        super().__init__()


def test_standard_step_is_that_of_keras_in_a_class_of_the_same_name(tmp_path: Path) -> None:
    original = Saved()
    original(X[:2])
    model, _ = apply_edits([StandardStep()], original)
    assert (type(model).__name__, type(model).__module__) == ("Saved", Saved.__module__)
    assert type(model).train_step is keras.Model.train_step
    with pytest.raises(ConfigError, match="already"):
        apply_edits([StandardStep()], model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is Saved
    np.testing.assert_allclose(loaded.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-6)


@pytest.mark.parametrize("edit", [ScaleInputs(), SetLoss("cross_entropy", "logits")], ids=str)
def test_step_of_keras_allows_what_the_users_step_does_not(edit: Edit) -> None:
    request = FitRequest(compiled, ArrayData(X[:64], Y[:64]), ArrayData(X, Y), None, None, 1, 32)
    trainer = make_trainer(request)
    assert not trainer.supports(edit)
    assert trainer.supports_together([StandardStep(), edit])
