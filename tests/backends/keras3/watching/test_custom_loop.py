"""Watching loops that call the optimizer themselves: what is counted and measured, and that nothing changes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import autotrainer
from autotrainer.api.script import Trainings, watched_frameworks
from autotrainer.backends.keras3.watching.loop_epochs import LoopEpochs
from autotrainer.monitoring.monitor import Monitor

tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("loops around tf.GradientTape", allow_module_level=True)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = (X[:, 0] > X[:, 1]).astype("int32")


def batches() -> Any:
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)


class Loop:
    """A small training in which each step is one call of ``step``; ``traces`` counts how often it is run in Python."""

    def __init__(self, compiled: bool, **options: Any) -> None:
        keras.utils.set_random_seed(0)
        layers = [keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(2)]
        self.model = keras.Sequential(layers)
        self.optimizer = keras.optimizers.SGD(0.1)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.traces = 0
        self.step: Callable[..., Any] = tf.function(self._step, **options) if compiled else self._step

    def _step(self, x: Any, y: Any) -> Any:
        self.traces += 1
        with tf.GradientTape() as tape:
            loss = self.loss(y, self.model(x, training=True))
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        return loss

    def run(self, epochs: int = 2) -> np.ndarray[Any, Any]:
        data = batches()
        for _ in range(epochs):
            for x, y in data:
                self.last = self.step(x, y)
        return np.concatenate([np.ravel(weight) for weight in self.model.get_weights()])


def watched(run: Callable[[], Any]) -> list[Monitor]:
    trainings = Trainings({"overhead": 1})
    with watched_frameworks(trainings):
        run()
    return [monitor for _, monitor in trainings.close(finished=True)]


@pytest.mark.parametrize("compiled", [False, True])
def test_loop_is_measured_and_unchanged(compiled: bool) -> None:
    expected = Loop(compiled).run()
    loops: list[Loop] = []

    def run() -> None:
        loops.append(Loop(compiled))
        np.testing.assert_array_equal(loops[0].run(), expected)

    (monitor,) = watched(run)
    (loop,) = loops
    history, context = monitor.history, monitor.context
    assert (history.step, history.epoch, list(history.steps)) == (7, 2, list(range(8)))
    assert (context.loss.family, context.loss.expects, context.optimizer.name) == ("cross_entropy", "logits", "sgd")
    assert np.isfinite(history.layer("grad_norm")).all()
    assert np.isfinite(history.layer("update_ratio")).all()
    assert np.isfinite(history.layer("weight_norm")).all()
    assert history.losses[1][-1] == pytest.approx(float(loop.last), rel=1e-6)
    assert history.targets


ENTROPIES = {
    "sparse_softmax_cross_entropy_with_logits": lambda y: y,
    "softmax_cross_entropy_with_logits": lambda y: tf.one_hot(y, 2),
    "sigmoid_cross_entropy_with_logits": lambda y: tf.one_hot(y, 2),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ENTROPIES)
def test_losses_of_tensorflow_show_outputs_and_targets(name: str, compiled: bool) -> None:
    def make() -> Loop:
        loop = Loop(compiled)
        loop.loss = lambda y, x: tf.reduce_mean(getattr(tf.nn, name)(labels=ENTROPIES[name](y), logits=x))
        return loop

    expected = make().run()
    (monitor,) = watched(lambda: np.testing.assert_array_equal(make().run(), expected))
    assert monitor.context.loss.expects == "logits"
    assert monitor.history.targets.classes == 2
    assert np.isfinite(monitor.history.scalar("accuracy")).all()


def test_optimizer_and_step_are_located() -> None:
    loop = Loop(False)
    with autotrainer.watch(loop.model) as monitor:
        loop.run(1)
        places = [monitor.observer.place(what, None) for what in ("step", "optimizer")]  # type: ignore[union-attr, arg-type]
    lines = Path(__file__).read_text().splitlines()
    texts = [lines[int(place.rpartition(":")[2]) - 1].strip() for place in places]
    assert texts[0].startswith("self.optimizer.apply_gradients")
    assert all(place.rpartition(":")[0].endswith("test_custom_loop.py") for place in places)


def test_compiled_step_is_traced_once_more() -> None:
    plain, loop = Loop(True), Loop(True)
    plain.run()
    watched(loop.run)
    assert loop.traces <= plain.traces + 1


def test_loop_is_watched_without_a_compiled_model() -> None:
    loop = Loop(False)
    with autotrainer.watch(loop.model, loop.optimizer, overhead=1) as monitor:
        loop.run(1)
        call = vars(loop.model)["call"]
    assert (monitor.history.step, monitor.history.epoch) == (3, 1)
    assert call is not None
    assert "call" not in vars(loop.model)


def test_epochs_of_the_user_are_counted_once() -> None:
    loop = Loop(False)
    with autotrainer.watch(loop.model) as monitor:
        for _ in range(3):
            loop.run(1)
            monitor.end_epoch(val_loss=1.0)
    assert monitor.history.epoch == 3


def test_model_found_by_the_weights_of_the_optimizer() -> None:
    class Parts(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, "tanh")])
            self.decoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])

    parts, optimizer = Parts(), keras.optimizers.Adam()

    def run() -> None:
        for x, _ in batches():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((parts.decoder(parts.encoder(x)) - x) ** 2)
            optimizer.apply(tape.gradient(loss, parts.trainable_variables), parts.trainable_variables)

    (monitor,) = watched(run)
    assert len(monitor.context.layers) == 2
    assert monitor.history.step == 3


@pytest.mark.slow
def test_losses_of_models_trained_against_each_other_are_not_judged() -> None:
    maker = keras.Sequential([keras.Input((3,)), keras.layers.Dense(6)])
    critic = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    optimizers = [keras.optimizers.Adam(), keras.optimizers.Adam()]
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    noise = keras.random.SeedGenerator(0)

    @tf.function  # type: ignore[untyped-decorator]
    def step(real: Any) -> None:
        with tf.GradientTape(persistent=True) as tape:
            made = critic(maker(keras.random.normal((16, 3), seed=noise)))
            losses = [loss(tf.ones_like(made), made), loss(tf.zeros_like(made), made) + tf.reduce_mean(critic(real))]
        for each, model, optimizer in zip(losses, (maker, critic), optimizers, strict=True):
            optimizer.apply(tape.gradient(each, model.trainable_variables), model.trainable_variables)

    monitors = watched(lambda: [step(x) for x, _ in batches()])
    assert [monitor.history.step for monitor in monitors] == [3, 3]
    assert all(np.isnan(monitor.history.losses[1]).all() for monitor in monitors)


def test_function_that_takes_several_steps() -> None:
    loop, data = Loop(False), batches()

    @tf.function  # type: ignore[untyped-decorator]
    def epoch() -> None:
        for x, y in data:
            loop._step(x, y)

    (monitor,) = watched(lambda: [epoch(), epoch()])
    assert (monitor.history.step, monitor.history.epoch) == (7, 2)
    assert np.isfinite(monitor.history.layer("weight_norm")).all()


class Noise(keras.layers.Layer):  # type: ignore[misc]
    """Adds noise whose random state is in the compiled function."""

    def call(self, x: Any) -> Any:
        return x + tf.random.normal(tf.shape(x))


@pytest.mark.parametrize(
    ("options", "reason"),
    [pytest.param({"jit_compile": True}, "jit_compile", marks=pytest.mark.slow), ({}, "random")],
)
def test_step_that_cant_be_recorded_is_watched_from_outside(
    options: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    def make() -> Loop:
        loop = Loop(True, **options)
        if not options:
            loop.model = keras.Sequential([keras.Input((6,)), Noise(), keras.layers.Dense(2)])
        return loop

    expected = make().run()
    loop = make()
    (monitor,) = watched(lambda: np.testing.assert_array_equal(loop.run(), expected))
    assert monitor.history.step == 7
    assert np.isfinite(monitor.history.layer("update_ratio")).all()
    assert monitor.history.losses[1][-1] == pytest.approx(float(loop.last), rel=1e-6)
    assert reason in caplog.text


def test_function_whose_variables_depend_on_its_arguments_runs_as_before() -> None:
    made: list[Any] = []

    @tf.function  # type: ignore[untyped-decorator]
    def scaled(x: Any) -> Any:
        if not made:
            made.append(tf.Variable(x * 2.0))
        return made[0] + x

    def run() -> None:
        keras.optimizers.SGD(0.1)  # waits for its first step
        np.testing.assert_array_equal(scaled(tf.ones([2])), [3.0, 3.0])

    watched(run)


def test_nothing_stays_patched() -> None:
    gc.collect()  # monitors of earlier tests
    before = [vars(owner).get(name) for owner, name in PATCHED]
    watched(Loop(True).run)
    gc.collect()
    assert [vars(owner).get(name) for owner, name in PATCHED] == before


PATCHED = [
    (keras.Model, "fit"),
    (keras.layers.Layer, "__call__"),
    (keras.losses, "mean_squared_error"),
    (keras.losses.Loss, "__call__"),
    (keras.optimizers.Optimizer, "apply"),
    (keras.optimizers.Optimizer, "__init__"),
    (tf.nn, "sigmoid_cross_entropy_with_logits"),
    (tf.GradientTape, "gradient"),
    (tf.data.Dataset, "__iter__"),
    (type(tf.function(lambda: None)), "__call__"),
]


class TestEpochs:
    """Signals in the order in which loops give them."""

    def setup_method(self) -> None:
        self.ends: list[int] = []
        self.epochs = LoopEpochs(self.ends.append)

    def test_dataset_that_starts_again(self) -> None:
        data, held_out = batches(), batches()
        for _ in range(3):
            self.epochs.dataset_started(data)
            self.epochs.stepped(4)
            self.epochs.dataset_started(held_out)
            self.epochs.evaluated()
        self.epochs.finish(interrupted=False)
        assert self.ends == [4, 8, 12]

    def test_dataset_made_for_each_epoch(self) -> None:
        for _ in range(3):
            data = batches()
            self.epochs.dataset_started(data)
            self.epochs.stepped(4)
            del data
        self.epochs.finish(interrupted=False)
        assert self.ends == [4, 8, 12]

    def test_evaluation_between_steps(self) -> None:
        for _ in range(3):
            self.epochs.stepped()
            self.epochs.stepped()
            self.epochs.evaluated()
        self.epochs.finish(interrupted=False)
        assert self.ends == [2, 4, 6]

    def test_call_in_each_step_is_no_evaluation(self) -> None:
        for _ in range(40):
            self.epochs.evaluated()
            self.epochs.stepped()
        self.epochs.finish(interrupted=False)
        assert len(self.ends) <= 5

    def test_interrupted_epoch_does_not_count(self) -> None:
        self.epochs.dataset_started(batches())
        self.epochs.stepped(4)
        self.epochs.finish(interrupted=True)
        assert self.ends == []
