"""Models with a custom training step: what is observed, and what is reported if something can't be."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from keras import ops

from autotrainer.backends.keras3.watching.observer import observe
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import Sampler

X = np.random.RandomState(0).randn(96, 8).astype("float32")
Y = X.sum(axis=1)


class All(Sampler):
    def due(self, step: int) -> bool:
        self._next = step + 1
        return True


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    made = Monitor([], All(), quiet=True)
    yield made
    made.close()


class OwnLoss(keras.Model):  # type: ignore[misc]
    """An autoencoder whose step calls a loss by itself, once or twice, and adds a penalty."""

    def __init__(self, *, calls: int) -> None:
        super().__init__()
        self.encoder = keras.Sequential([kl.Input((8,)), kl.Dense(4, "relu")])
        self.decoder = keras.Sequential([kl.Input((4,)), kl.Dense(8)])
        self.calls, self.mean = calls, keras.metrics.Mean("loss")

    @property
    def metrics(self) -> list[Any]:
        return [self.mean]

    def train_step(self, x: Any) -> Any:
        with tf.GradientTape() as tape:
            code = self.encoder(x)
            parts = [ops.sum(keras.losses.mean_squared_error(x, self.decoder(code))) for _ in range(self.calls)]
            loss = ops.sum(ops.stack(parts)) + 0.1 * ops.sum(ops.square(code))
        weights = self.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        self.mean.update_state(loss)
        return {"loss": self.mean.result()}


@pytest.mark.parametrize("calls", [1, 2])
def test_the_only_loss_that_a_step_calls_shows_its_targets(monitor: Monitor, calls: int) -> None:
    model = OwnLoss(calls=calls)
    model.compile(keras.optimizers.SGD(0.0))
    monitor.attach(observe(model, None, None, monitor))
    original = keras.losses.mean_squared_error
    model.fit(X, batch_size=96, epochs=3, verbose=0, shuffle=False)
    assert keras.losses.mean_squared_error is original
    monitor.close()
    errors, alone = (monitor.history.scalar(name) for name in ("squared_error", "data_loss"))
    if calls == 2:
        assert np.isnan(errors).all()
        return
    expected = np.square(np.asarray(model.decoder(model.encoder(X))) - X).mean()
    assert alone == pytest.approx(expected, rel=1e-5)
    assert errors == pytest.approx(expected, rel=0.3)  # of the copied rows
    assert (monitor.context.loss.family, monitor.context.loss.composite) == ("squared_error", True)


class Adversaries(keras.Model):  # type: ignore[misc]
    """Two models, two optimizers, and no `call`: such a model never counts as built."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.generator = keras.Sequential([kl.Input((4,)), kl.Dense(8, "relu"), kl.Dense(8)], name="generator")
        self.critic = keras.Sequential([kl.Input((8,)), kl.Dense(8), kl.LeakyReLU(), kl.Dense(1)], name="critic")
        self.means = {name: keras.metrics.Mean(name) for name in ("d_loss", "g_loss")}
        self.seeds = keras.random.SeedGenerator(1)
        self.fails = fails

    def compile(self) -> None:
        super().compile()
        self.own = {"critic": keras.optimizers.Adam(1e-2), "generator": keras.optimizers.SGD(1e-3)}
        self.loss_of = keras.losses.BinaryCrossentropy(from_logits=True)

    @property
    def metrics(self) -> list[Any]:
        return list(self.means.values())

    def train_step(self, real: Any) -> Any:
        rows = ops.shape(real)[0]
        fake = self.generator(keras.random.normal((rows, 4), seed=self.seeds))
        labels = ops.concatenate([ops.ones((rows, 1)), ops.zeros((rows, 1))])
        with tf.GradientTape() as tape:
            critical = self.loss_of(labels, self.critic(ops.concatenate([fake, real])))
        weights = self.critic.trainable_weights
        self.own["critic"].apply_gradients(zip(tape.gradient(critical, weights), weights, strict=True))
        with tf.GradientTape() as tape:
            fake = self.generator(keras.random.normal((rows, 4), seed=self.seeds))
            fooled = self.loss_of(ops.zeros((rows, 1)), self.critic(fake)) * (np.inf if self.fails else 1.0)
        weights = self.generator.trainable_weights
        self.own["generator"].apply(tape.gradient(fooled, weights), weights)
        self.means["d_loss"].update_state(critical)
        self.means["g_loss"].update_state(fooled)
        return {name: mean.result() for name, mean in self.means.items()}


def column(monitor: Monitor, name: str) -> Any:
    return monitor.history.layer(name)[:, [info.kind == "dense" for info in monitor.history.layers]]


def test_two_optimizers_and_no_call(monitor: Monitor) -> None:
    weights = []
    for watched in (False, True):
        keras.utils.set_random_seed(0)
        model = Adversaries()
        model.compile()
        if watched:
            monitor.attach(observe(model, None, None, monitor))
        model.fit(X, epochs=2, verbose=0)
        weights.append(model.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    assert monitor.history.steps.tolist() == list(range(6))
    assert (column(monitor, "grad_norm") > 0).all()
    assert (column(monitor, "update_ratio") > 0).all()
    assert (column(monitor, "activation_std") > 0).all()
    assert set(monitor.history.epoch_names) == {"d_loss", "g_loss"}
    # the compiled optimizer is not mistaken for those that train the model
    assert monitor.context.optimizer.name == "adam"
    np.testing.assert_allclose(monitor.history.scalar("learning_rate")[1:], 1e-2, rtol=1e-6)
    assert not len(monitor.history.losses[0])  # adversarial losses do not measure progress
    assert not monitor._failed


def test_nonfinite_loss_of_adversarial_training_is_reported(monitor: Monitor) -> None:
    model = Adversaries(fails=True)
    model.compile()
    monitor.attach(observe(model, None, None, monitor))
    model.fit(X, epochs=1, verbose=0)
    assert np.isinf(monitor.history.losses[1]).all()
    assert len(monitor.history.losses[1])


class CustomStep(keras.Model):  # type: ignore[misc]
    """A training step that computes its loss without Keras, and logs it under a name, as a mean or not."""

    def __init__(self, *, name_of_loss: str = "loss", as_mean: bool = True, applies: bool = True) -> None:
        super().__init__()
        self.hidden, self.out = kl.Dense(8, "relu"), kl.Dense(1)
        self.total = keras.metrics.Mean("total")
        self.how = name_of_loss, as_mean, applies

    def call(self, inputs: Any) -> Any:
        return self.out(self.hidden(inputs))

    def train_step(self, data: Any) -> Any:
        name, as_mean, applies = self.how
        x, y = data[:2]
        with tf.GradientTape() as tape:
            loss = ops.mean((ops.squeeze(self(x, training=True), -1) - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        if applies:
            self.optimizer.apply(grads=gradients, trainable_variables=self.trainable_variables)
        else:
            for gradient, weight in zip(gradients, self.trainable_variables, strict=True):
                weight.assign_sub(0.01 * gradient)
        self.total.update_state(loss)
        return {name: self.total.result() if as_mean else loss}


@functools.cache
def losses_of_batches() -> list[float]:
    keras.utils.set_random_seed(0)
    model = CustomStep(as_mean=False)
    model.compile("sgd")
    batches = [slice(start, start + 16) for start in range(0, 96, 16)] * 2
    return [float(model.train_on_batch(X[rows], Y[rows], return_dict=True)["loss"]) for rows in batches]


@pytest.mark.parametrize(
    ("name", "as_mean"), [("loss", True), ("loss", False), ("total_loss", True), ("mse_loss", True)]
)
def test_the_loss_is_found_in_the_logs(monitor: Monitor, name: str, as_mean: bool) -> None:
    losses = losses_of_batches()
    keras.utils.set_random_seed(0)
    model = CustomStep(name_of_loss=name, as_mean=as_mean)
    model.compile("sgd")
    monitor.attach(observe(model, None, None, monitor))
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0, shuffle=False)
    steps, seen = monitor.history.losses
    np.testing.assert_allclose(seen, np.array(losses)[steps], rtol=1e-3)
    assert len(steps) >= 11
    assert "loss" in monitor.history.epoch_names


def test_step_without_an_optimizer_call_is_reported_once(monitor: Monitor, caplog: Any) -> None:
    model = CustomStep(applies=False)
    model.compile("sgd")
    monitor.attach(observe(model, None, None, monitor))
    with caplog.at_level(logging.WARNING, "autotrainer"):
        model.fit(X, Y, epochs=2, verbose=0)
    assert [r.message for r in caplog.records if r.name == "autotrainer"] == [
        "gradients can't be watched: the training step gives none to an optimizer's apply()"
    ]
    assert (column(monitor, "update_ratio") > 0).all()
    assert np.isfinite(column(monitor, "activation_std")).all()


def test_loop_without_optimizer_is_reported(monitor: Monitor, caplog: Any) -> None:
    model = keras.Sequential([kl.Input((8,)), kl.Dense(1)])
    monitor.attach(observe(model, None, None, monitor))
    with tf.GradientTape() as tape:
        loss = ops.mean(model(X) ** 2)
    for variable, gradient in zip(model.variables, tape.gradient(loss, model.trainable_variables), strict=True):
        variable.assign_sub(0.1 * gradient)
    with caplog.at_level(logging.WARNING, "autotrainer"):
        monitor.close()
    assert ["no training step" in r.message for r in caplog.records] == [True]


def test_step_skipped_by_loss_scaling_is_not_a_failure(monitor: Monitor) -> None:
    half = "mixed_float16"
    model = keras.Sequential([kl.Input((8,)), kl.Dense(8, "relu", dtype=half), kl.Dense(1, dtype=half)])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-3), initial_scale=2.0**24), "mse")
    monitor.attach(observe(model, None, None, monitor))
    model.fit(X, Y, epochs=6, verbose=0)
    norms = monitor.history.scalar("grad_norm")
    left_out = np.isnan(norms)
    assert 0 < left_out.sum() < len(norms)
    assert np.isfinite(norms[~left_out]).all()
    assert norms[~left_out].max() < 1e3  # in the scale of the loss itself


class Renamed(keras.optimizers.SGD):  # type: ignore[misc]
    def apply(self, gradients: Any, variables: Any, *, scale: float = 1.0) -> Any:
        assert not isinstance(gradients, list) or scale == 1.0
        return super().apply([scale * g for g in gradients], list(variables))


class Open(keras.optimizers.SGD):  # type: ignore[misc]
    def apply(self, grads: Any, trainable_variables: Any = None, **kwargs: Any) -> Any:
        kwargs.pop("note", None)
        return super().apply(grads, trainable_variables, **kwargs)


class Anything(keras.optimizers.SGD):  # type: ignore[misc]
    def apply(self, *args: Any, **kwargs: Any) -> Any:
        return super().apply(*args, **kwargs)


CALLS: list[tuple[Any, Any]] = [
    (Renamed, lambda o, g, v: o.apply(variables=v, gradients=tuple(g), scale=0.5)),
    (Renamed, lambda o, g, v: o.apply(iter(g), iter(v))),
    (Open, lambda o, g, v: o.apply(g, trainable_variables=v, note="a word")),
    (Anything, lambda o, g, v: o.apply(g, v)),
    (Anything, lambda o, g, v: o.apply_gradients(zip(g, v, strict=True))),
]


@pytest.mark.parametrize(("optimizer", "call"), CALLS)
def test_custom_optimizer_signatures(monitor: Monitor, optimizer: Any, call: Any) -> None:
    class Calls(CustomStep):
        def train_step(self, data: Any) -> Any:
            x, y = data[:2]
            with tf.GradientTape() as tape:
                loss = ops.mean((ops.squeeze(self(x, training=True), -1) - y) ** 2)
            call(self.optimizer, tape.gradient(loss, self.trainable_variables), self.trainable_variables)
            return {"loss": loss}

    weights = []
    for watched in (False, True):
        keras.utils.set_random_seed(0)
        model = Calls()
        model.compile(optimizer(0.01))
        if watched:
            monitor.attach(observe(model, None, None, monitor))
        model.fit(X, Y, epochs=1, verbose=0, shuffle=False)
        weights.append(model.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    assert (column(monitor, "grad_norm") > 0).all()
    assert not monitor._failed


class Several(keras.Model):  # type: ignore[misc]
    """Returns the trained output and an earlier tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = kl.Dense(8, "relu"), kl.Dense(1)

    def call(self, inputs: Any) -> Any:
        hidden = self.hidden(inputs)
        return {"a_hidden": hidden, "wanted": self.out(hidden)}


class WithLoss(Several):
    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *_: Any, **__: Any) -> Any:
        return ops.mean((y_pred["wanted"] - y) ** 2)


def test_output_with_a_target_is_observed(monitor: Monitor) -> None:
    model = Several()
    model.compile("sgd", {"wanted": "mse"})
    monitor.attach(observe(model, None, None, monitor))
    model.fit(X, {"wanted": Y[:, None]}, verbose=0)
    assert (monitor.context.output_units, monitor.context.output_activation) == (1, "linear")
    assert np.isfinite(monitor.history.scalar("squared_error")[-1])


def test_no_output_is_observed_if_the_target_is_ambiguous(monitor: Monitor) -> None:
    model = WithLoss()
    model.compile("sgd", loss=None)
    monitor.attach(observe(model, None, None, monitor))
    model.fit(X, Y[:, None], verbose=0)
    assert monitor.context.output_activation is None
    assert np.isnan(monitor.history.scalar("squared_error")).all()
    assert np.isfinite(monitor.history.scalar("loss")).all()


class Evaluated(keras.Sequential):  # type: ignore[misc]
    mode: Any = None

    def test_step(self, data: Any) -> Any:
        x, y = data
        outputs = self(x) if self.mode is None else self(x, training=self.mode)
        self._loss_tracker.update_state(self.compute_loss(x, y, outputs))
        return {m.name: m.result() for m in self.metrics}


@pytest.mark.parametrize(
    ("kind", "mode", "rate", "expected"),
    [
        (keras.Sequential, None, 0.5, [0.0, 0.0]),
        (Evaluated, False, 0.5, [0.0, 0.0]),
        (Evaluated, None, 0.5, [0.0, 0.0]),
        (Evaluated, True, 0.5, [1.0, 1.0]),
        (Evaluated, True, 0.0, []),  # no layer depends on the mode
    ],
)
@pytest.mark.parametrize("eager", [False, True])
def test_mode_of_evaluations(monitor: Monitor, kind: Any, mode: Any, rate: float, expected: Any, eager: bool) -> None:
    model = kind([kl.Input((8,)), kl.Dense(4), kl.Dropout(rate), kl.Dense(1)])
    if kind is Evaluated:
        model.mode = mode
    model.compile("sgd", "mse", run_eagerly=eager)
    monitor.attach(observe(model, None, None, monitor))
    before = {key for layer in (model, *model.layers) for key in vars(layer)}
    model.fit(X, Y, epochs=2, verbose=0, validation_data=(X[:32], Y[:32]))
    assert monitor.history.epochs("evaluation_mode")[1].tolist() == expected
    assert "call" not in {key for layer in (model, *model.layers) for key in vars(layer)} - before
    assert not monitor._failed


class SamplesDropout(keras.Model):  # type: ignore[misc]
    """Its dropout is active in evaluation on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.drop, self.out = kl.Dense(4), kl.Dropout(0.5), kl.Dense(1)

    def call(self, x: Any, training: Any = None) -> Any:
        return self.out(self.drop(self.hidden(x), training=True))

    def test_step(self, data: Any) -> Any:
        return super().test_step(data)


def test_deliberate_dropout_is_not_an_evaluation_in_training_mode(monitor: Monitor) -> None:
    model = SamplesDropout()
    model.compile("sgd", "mse")
    monitor.attach(observe(model, None, None, monitor))
    model.fit(X, Y, epochs=2, verbose=0, validation_data=(X[:32], Y[:32]))
    assert monitor.history.epochs("evaluation_mode")[1].tolist() == [0.0, 0.0]


def test_weights_created_by_the_first_call_are_observed(monitor: Monitor) -> None:
    model = SamplesDropout()
    with pytest.warns(UserWarning, match="unbuilt state"):
        model.build((None, 8))
    model.compile("sgd", "mse")
    monitor.attach(observe(model, None, None, monitor))
    model.fit(X, Y, epochs=2, verbose=0)
    history = monitor.history
    assert history.steps.tolist() == [1, 2, 3, 4, 5]
    assert np.isfinite(history.layer("grad_norm")).all()
    assert np.isfinite(history.layer("weight_norm")).all()
