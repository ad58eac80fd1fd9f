"""What is observed of a `fit` on TensorFlow, and that nothing is left behind."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import autotrainer
from autotrainer.backends.keras3.watching.observer import observe
from autotrainer.errors import InputError
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import Sampler
from autotrainer.records.signals import LAYER_COLUMNS

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(96, 12).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int64")


class Some(Sampler):
    """Samples two of three steps, whatever the cost."""

    def due(self, step: int) -> bool:
        self._next = step + 1
        return step % 3 != 1


class All(Sampler):
    def due(self, step: int) -> bool:
        self._next = step + 1
        return True


def mlp() -> Any:
    return keras.Sequential(
        [
            kl.Input((12,)),
            kl.Dense(16, "relu", name="first"),
            kl.Dropout(0.3),
            kl.Dense(8, name="second"),
            kl.BatchNormalization(name="norm"),
            kl.LeakyReLU(name="leaky"),
            kl.Dense(2, "softmax", name="out"),
        ]
    )


def compiled(model: Any, optimizer: Any = None, loss: Any = "sparse_categorical_crossentropy", **options: Any) -> Any:
    options.setdefault("metrics", ["accuracy"])
    model.compile(keras.optimizers.Adam(1e-2) if optimizer is None else optimizer, loss, **options)
    return model


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    made = Monitor([], All(), quiet=True)
    yield made
    made.close()


def watch(model: Any, monitor: Monitor) -> Monitor:
    monitor.attach(observe(model, None, None, monitor))
    return monitor


def column(monitor: Monitor, name: str, layer: str) -> Any:
    row = [info.name for info in monitor.history.layers].index(layer)
    return monitor.history.layer(name)[:, row]


# -- observations ------------------------------------------------------------------------------------------------


def test_fit_is_observed(monitor: Monitor) -> None:
    model = compiled(mlp())
    watch(model, monitor)
    history = model.fit(X, Y, epochs=3, verbose=0, validation_split=0.25)
    seen = monitor.history
    assert seen.steps.tolist() == list(range(9))
    context = monitor.context
    assert (context.engine, context.planned_epochs, context.planned_steps) == ("tensorflow", 3, 9)
    assert (context.train_rows, context.batch_size, context.output_units) == (72, 32, 2)
    assert [info.name for info in seen.layers] == ["first", "second", "norm", "leaky", "out"]
    assert set(seen.epoch_names) == {"loss", "accuracy", "val_loss", "val_accuracy", "evaluation_mode"}
    np.testing.assert_allclose(seen.epochs("val_loss")[1], history.history["val_loss"])
    assert seen.scalar("batch_size").tolist() == [32, 32, 8] * 3
    np.testing.assert_allclose(seen.scalar("learning_rate"), 0.01, rtol=1e-6)
    assert np.isfinite(seen.scalar("accuracy")).all()
    assert np.isfinite(seen.scalar("loss")).all()
    for name in ("grad_norm", "weight_norm", "update_ratio", "activation_std"):
        assert (column(monitor, name, "first") > 0).all(), name
    assert np.isnan(column(monitor, "grad_norm", "leaky")).all()
    assert (column(monitor, "activation_spread", "leaky") > 0).all()


def test_gradients_updates_and_loss_are_those_of_the_training(monitor: Monitor) -> None:
    model = keras.Sequential([kl.Input((12,)), kl.Dense(6, "tanh", name="a"), kl.Dense(1, name="b")])
    compiled(model, keras.optimizers.SGD(0.1, clipnorm=1e-3), "mse", metrics=None)
    before = [w.numpy() for w in model.trainable_weights]
    targets = X[:32, :1]
    with tf.GradientTape() as tape:
        hidden = model.layers[0](X[:32])
        loss = tf.reduce_mean((model.layers[1](hidden) - targets) ** 2)
    gradients = [g.numpy() for g in tape.gradient(loss, model.trainable_weights)]
    watch(model, monitor)
    model.fit(X[:32], targets, epochs=1, verbose=0, shuffle=False)
    after = [w.numpy() for w in model.trainable_weights]

    def norm(arrays: list[Any]) -> Any:
        return np.sqrt(sum((a**2).sum() for a in arrays))

    close: Callable[..., None] = np.testing.assert_allclose
    close(monitor.history.scalar("loss"), [float(loss)], rtol=1e-5)
    close(column(monitor, "grad_norm", "a"), [norm(gradients[:2])], rtol=1e-4)
    close(column(monitor, "weight_norm", "a"), [norm(before[:2])], rtol=1e-5)
    moved = norm([a - b for a, b in zip(after[:2], before[:2], strict=True)])
    close(column(monitor, "update_ratio", "a"), [moved / norm(before[:2])], rtol=1e-3)
    values = hidden.numpy()
    close(column(monitor, "activation_std", "a"), [values.std()], rtol=1e-4)
    close(column(monitor, "activation_spread", "a"), [np.sqrt(values.var(axis=0).mean())], rtol=1e-4)
    close(column(monitor, "saturated", "a"), [(1 - values**2 < 1e-3).mean()])
    close(monitor.history.scalar("squared_error"), [float(loss)], rtol=1e-4)


def test_dead_units_and_sparse_gradients(monitor: Monitor) -> None:
    model = keras.Sequential(
        [
            kl.Input((4,), dtype="int32"),
            kl.Embedding(50, 3, name="embedding"),
            kl.Flatten(),
            kl.Dense(8, "relu", name="dead"),
            kl.Dense(1, name="out"),
        ]
    )
    compiled(model, keras.optimizers.SGD(1e-6), "mse", metrics=None)
    model.get_layer("dead").set_weights([np.abs(RANDOM.randn(12, 8)), np.array([-100.0] * 6 + [100.0] * 2)])
    tokens = np.tile(np.array([[1, 2, 2, 3]]), (64, 1))
    watch(model, monitor)
    model.fit(tokens, RANDOM.randn(64, 1), batch_size=8, epochs=1, verbose=0)
    dead = column(monitor, "dead_units", "dead")
    assert np.isnan(dead[:4]).all()
    np.testing.assert_allclose(dead[4:], 0.75)
    np.testing.assert_allclose(column(monitor, "grad_zero_fraction", "embedding"), 1 - 9 / 150)
    assert (column(monitor, "grad_norm", "embedding") > 0).all()
    assert monitor.context.input_kind == "index"


def test_losses_between_samples_are_read_from_the_running_means() -> None:
    every = compiled(mlp())
    watched = {}
    for sampler in (All(), Some()):
        keras.utils.set_random_seed(1)
        every = compiled(keras.Sequential([kl.Input((12,)), kl.Dense(2, "softmax")]))
        monitor = watch(every, Monitor([], sampler, quiet=True))
        every.fit(X, Y, batch_size=8, epochs=2, verbose=0)
        monitor.close()
        watched[type(sampler)] = dict(zip(*(v.tolist() for v in monitor.history.losses), strict=True))
    assert watched[Some].keys() == watched[All].keys()
    for step, loss in watched[Some].items():
        assert loss == pytest.approx(watched[All][step], rel=1e-3)


def test_epochs_are_counted_over_several_fits(monitor: Monitor) -> None:
    model = compiled(mlp())
    watch(model, monitor)
    model.fit(X, Y, epochs=2, verbose=0)
    model.fit(X, Y, epochs=5, initial_epoch=4, verbose=0)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=1, verbose=0)
    assert monitor.history.epochs("loss")[0].tolist() == [0, 1, 4, 5]
    assert monitor.history.steps.tolist() == list(range(12))
    assert (monitor.context.optimizer.name, monitor.context.planned_epochs) == ("sgd", 6)


@pytest.mark.parametrize("per_call", [1, 2])
def test_the_last_step_of_each_fit_is_sampled(per_call: int) -> None:
    model = compiled(mlp(), steps_per_execution=per_call)
    with autotrainer.watch(model, overhead=1e-9) as monitor:  # which affords the first step alone
        model.fit(X, Y, epochs=12, batch_size=24, verbose=0)
        model.fit(X, Y, epochs=2, batch_size=24, verbose=0)
    assert monitor.history.steps.tolist() == [per_call - 1, 47, 55]


def test_losses_after_the_last_sample_are_recorded() -> None:
    model = compiled(mlp())
    with autotrainer.watch(model, steps=1000) as monitor:
        model.fit(X, Y, epochs=12, verbose=0)
        monitor.sampler.stop()
        model.fit(X, Y, epochs=1, verbose=0)
    assert {36, 37, 38} <= set(monitor.history.losses[0].tolist())


def test_train_on_batch_is_observed(monitor: Monitor) -> None:
    model = compiled(mlp())
    watch(model, monitor)
    for start in range(0, 96, 32):
        model.train_on_batch(X[start : start + 32], Y[start : start + 32])
    assert monitor.history.steps.tolist() == [0, 1, 2]
    assert np.isfinite(monitor.history.scalar("loss")).all()


class Raw(keras.Model):  # type: ignore[misc]
    """A custom training step without Keras' loss, and a softmax that is not a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.out = kl.Dense(2, name="out")
        self.hidden = kl.Dense(8, "relu", name="hidden")

    def call(self, inputs: Any) -> Any:
        return keras.ops.softmax(self.out(self.hidden(inputs)))

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(y, self(x, training=True))
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return {"loss": loss}


def test_custom_training_step(monitor: Monitor) -> None:
    model = compiled(Raw(), metrics=None)
    watch(model, monitor)
    model.fit(X, Y, epochs=2, verbose=0)
    seen = monitor.history
    assert seen.steps.tolist() == [1, 2, 3, 4, 5]  # before the first step it has no weights
    assert [info.name for info in seen.layers] == ["hidden", "out"]  # in the order of their calls
    assert (monitor.context.output_activation, monitor.context.output_units) == ("softmax", 2)
    assert np.isfinite(seen.scalar("loss")).all()
    assert np.isfinite(seen.scalar("accuracy")).all()
    assert (column(monitor, "grad_norm", "hidden") > 0).all()


def test_several_inputs_and_outputs(monitor: Monitor) -> None:
    a, b = kl.Input((12,), name="a"), kl.Input((12,), name="b")
    hidden = kl.Dense(4, "relu", name="hidden")(kl.Concatenate()([a, b]))
    model = keras.Model({"a": a, "b": b}, {"one": kl.Dense(2, "softmax")(hidden), "two": kl.Dense(1)(hidden)})
    model.compile("sgd", {"one": "sparse_categorical_crossentropy", "two": "mse"})
    watch(model, monitor)
    model.fit({"a": X, "b": X}, {"one": Y, "two": X[:, 0]}, epochs=1, verbose=0)
    assert len(monitor.history.steps) == 3
    assert np.isfinite(monitor.history.scalar("accuracy")).all()


# -- what is not allowed ------------------------------------------------------------------------------------------


def test_wrong_objects_are_refused(monitor: Monitor) -> None:
    with pytest.raises(InputError, match=r"keras\.Model"):
        observe(kl.Dense(1), None, None, monitor)
    with pytest.raises(InputError, match="leave it out"):
        observe(compiled(mlp()), keras.optimizers.SGD(), None, monitor)
    model = compiled(mlp())
    observe(model, model.optimizer, None, monitor).close()


# -- nothing is left behind ---------------------------------------------------------------------------------------


def test_closing_detaches_everything(monitor: Monitor) -> None:
    model, plain = compiled(mlp()), compiled(mlp())
    plain.fit(X, Y, epochs=1, verbose=0)
    watch(model, monitor)
    model.fit(X, Y, epochs=1, verbose=0)
    own = monitor._observer
    monitor.close()
    assert own is not None
    assert vars(model).keys() == vars(plain).keys()
    assert model.train_function.__module__ == plain.train_function.__module__
    for mine, theirs in zip(model._flatten_layers(), plain._flatten_layers(), strict=True):
        assert vars(mine).keys() == vars(theirs).keys()
    assert vars(model.optimizer).keys() == vars(plain.optimizer).keys()
    model.fit(X, Y, epochs=1, verbose=0)


class Stop(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("stop")])
def test_exception_in_fit_propagates_and_nothing_stays_attached(monitor: Monitor, error: BaseException) -> None:
    model = compiled(mlp())
    watch(model, monitor)
    with pytest.raises(type(error)):
        model.fit(X, Y, verbose=0, callbacks=[Stop(error)])
    monitor.close()
    assert not {"fit", "make_train_function", "compute_loss", "call", "train_step"} & vars(model).keys()
    assert "apply" not in vars(model.optimizer)
    assert monitor.history.step == 1


def test_watched_model_can_be_saved_and_copied(monitor: Monitor, tmp_path: Path) -> None:
    model = compiled(mlp())
    watch(model, monitor)
    model.fit(X, Y, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    for twin in (keras.models.load_model(tmp_path / "model.keras"), copy.deepcopy(model)):
        assert not {"fit", "make_train_function", "train_function"} & {k for k, v in vars(twin).items() if v}
        np.testing.assert_array_equal(twin.predict(X[:4], verbose=0), model.predict(X[:4], verbose=0))
    assert "fit" not in vars(keras.models.clone_model(model))
    assert model.get_config() == keras.Sequential.from_config(model.get_config()).get_config()


def test_user_callbacks_are_kept(monitor: Monitor) -> None:
    model = compiled(mlp())
    watch(model, monitor)
    mine = keras.callbacks.EarlyStopping("loss", patience=0, min_delta=100.0)
    given = [mine]
    history = model.fit(X, Y, 32, 5, 0, given)  # all by position
    assert given == [mine]
    assert len(history.history["loss"]) == 2
    model.fit(X, Y, verbose=0, callbacks=mine)
    assert monitor.history.epochs("loss")[0].tolist() == [0, 1, 2]


def test_monitoring_errors_never_reach_the_training(monitor: Monitor, caplog: Any, monkeypatch: Any) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("ours")

    model = compiled(mlp())
    watch(model, monitor)
    monkeypatch.setattr(monitor, "record", broken)
    with caplog.at_level(logging.WARNING, "autotrainer"):
        history = model.fit(X, Y, epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
    assert sum("ZeroDivisionError" in record.message for record in caplog.records) == 1


class Noisy(kl.Layer):  # type: ignore[misc]
    """Draws from a state inside TensorFlow, which a second compiled step would repeat."""

    def call(self, inputs: Any) -> Any:
        return inputs + tf.random.normal(tf.shape(inputs))


def test_stateful_random_operations_in_the_graph_are_not_recorded(monitor: Monitor, caplog: Any) -> None:
    weights = []
    for watched in (False, True):
        keras.utils.set_random_seed(5)
        model = compiled(keras.Sequential([kl.Input((12,)), Noisy(), kl.Dense(2, "softmax")]))
        if watched:
            watch(model, monitor)
        with caplog.at_level(logging.WARNING, "autotrainer"):
            model.fit(X, Y, epochs=2, verbose=0)
        weights.append(model.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    assert [r.message for r in caplog.records if "RandomStandardNormal" in r.message]
    assert len(monitor.history.steps) == 6
    assert np.isfinite(monitor.history.scalar("loss")).all()
    assert np.isfinite(monitor.history.layer("update_ratio")[1:, 0]).all()
    assert LAYER_COLUMNS  # the table has its columns, NaN where nothing could be measured
