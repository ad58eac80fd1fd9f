"""Trainings of Keras models that continue after a pause, during which another one runs, as if there had been none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from autotrainer.adapter.spec import FitRequest, TrainingSpec
from autotrainer.backends.keras3.training import pausing
from autotrainer.backends.keras3.training.trainer import KerasTrainer, make_trainer
from autotrainer.edits import DropBadRows, Edit, ReduceOnPlateau, Rollback, SetLearningRate, StopEarly
from autotrainer.records.data import ArrayData, StreamData
from autotrainer.testing import RecordedRun
from autotrainer.training.base_run import ManagedMonitor

EPOCHS = 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(70, 4)).astype("float32")
Y = (X[:, :1] * X[:, 1:2] > 0).astype("float32")
SEQUENCES = RNG.normal(size=(70, 5, 3)).astype("float32")
WEIGHTS = RNG.uniform(0.5, 2.0, 70).astype("float32")
BAD = np.where(np.arange(70)[:, None] % 23 == 0, np.float32(np.nan), X)


@keras.saving.register_keras_serializable("test_pausing")
class GlobalNoise(layers.Layer):
    """Draws from Keras' global generator, which all models share."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        return inputs + 0.1 * keras.random.normal(keras.ops.shape(inputs)) if training else inputs


@keras.saving.register_keras_serializable("test_pausing")
class TensorFlowNoise(layers.Layer):
    """Draws from the state of a TensorFlow operation."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        return inputs + 0.1 * tf.random.normal(tf.shape(inputs)) if training else inputs


def compiled(model: Any, optimizer: Any = None, **options: Any) -> Any:
    model.compile(optimizer or keras.optimizers.Adam(0.02), "binary_crossentropy", **options)
    return model


def chain(*hidden: Any, shape: tuple[int, ...] = (4,), **options: Any) -> Any:
    keras.utils.set_random_seed(1)
    made = [keras.Input(shape), *hidden, layers.Dense(8, "relu", name="hidden"), layers.Dense(1, "sigmoid", name="out")]
    return compiled(keras.Sequential(made), **options)


def two_inputs() -> Any:
    keras.utils.set_random_seed(1)
    left, right = keras.Input((4,), name="left"), keras.Input((5, 3), name="right")
    joint = layers.Concatenate()([layers.Dense(4, "relu")(left), layers.Flatten()(right)])
    output = layers.Dense(1, "sigmoid")(layers.Dropout(0.3)(joint))
    return compiled(keras.Model({"left": left, "right": right}, output), metrics=["accuracy"])


def averaging() -> Any:
    return keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_overwrite_frequency=None)


def trainer(model: Any, train: Any = None, **fit_args: Any) -> KerasTrainer:
    data = ArrayData(X, Y) if train is None else train
    held = data.take(np.arange(20)) if isinstance(data, ArrayData) else ArrayData(X[:20], Y[:20])
    return make_trainer(FitRequest(model, data, held, None, None, EPOCHS, 16, fit_args=fit_args))


def outcome(given: KerasTrainer, edits: Sequence[Edit], pauses: tuple[int, ...], **options: Any) -> dict[str, Any]:
    """Return all results of a training, with another one run during the first pause."""
    run = RecordedRun(pauses=pauses, **options)
    trained = given.train(TrainingSpec(EPOCHS, 0, tuple(edits)), run)
    for at in pauses:
        if at is pauses[0]:
            other = RecordedRun(epochs=1)
            given.train(TrainingSpec(EPOCHS, 1), other)
            other.monitor.close()
        assert trained.paused is not None
        assert trained.paused.go_on() == (at is not pauses[-1])
    run.monitor.close()
    return {
        "weights": trained.model.get_weights(),
        "seeds and statistics": [np.array(v) for v in trained.model.variables],
        "optimizer": [np.array(v) for v in trained.optimizer.variables],
        "epochs": [epoch for epoch, _, _ in run.ends],
        "training": [values["loss"] for _, values, _ in run.ends],
        "evaluation": [ended.loss for _, _, ended in run.ends if ended is not None],
        "steps": run.monitor.history.losses[0],
        "losses": run.monitor.history.losses[1],
        "work": run.spent,
    }


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        pairs = zip(found[name], value, strict=True) if isinstance(value, list) else [(found[name], value)]
        for new, old in pairs:
            np.testing.assert_array_equal(new, old, name)


PARTIAL = {"steps_per_epoch": 3}  # a pass has five
ROLLBACK = (SetLearningRate(3.0), Rollback(), StopEarly(4))
CASES: dict[str, tuple[Callable[[], Any], Any, dict[str, Any], tuple[Edit, ...]]] = {
    "epochs that are no whole passes": (chain, ArrayData(X, Y), PARTIAL, ()),
    "epochs longer than a pass": (chain, ArrayData(X, Y), {"steps_per_epoch": 7}, ()),
    "no shuffling": (chain, ArrayData(X, Y), {"shuffle": False, **PARTIAL}, ()),
    "rows left out": (chain, ArrayData(BAD, Y), {}, (DropBadRows(),)),
    "several inputs": (two_inputs, ArrayData({"left": X, "right": SEQUENCES}, Y, WEIGHTS), {}, ()),
    "recurrent dropout": (
        lambda: chain(layers.SimpleRNN(6, dropout=0.2, recurrent_dropout=0.2), shape=(5, 3)),
        ArrayData(SEQUENCES, Y), {}, (),
    ),
    "running statistics": (
        lambda: chain(layers.Dense(6), layers.BatchNormalization()),
        ArrayData(X, Y), {"class_weight": {0: 1, 1: 2}}, (),
    ),
    "the generator of all": (lambda: chain(GlobalNoise(), layers.Dropout(0.2)), ArrayData(X, Y), {}, ()),
    "an eager step": (
        lambda: chain(GlobalNoise(), TensorFlowNoise(), run_eagerly=True), ArrayData(X, Y), {}, (),
    ),
    "averaged weights": (lambda: chain(optimizer=averaging()), ArrayData(X, Y), {}, ()),
    "a falling rate": (
        lambda: chain(optimizer=keras.optimizers.SGD(9.0)), ArrayData(X, Y), {}, (ReduceOnPlateau(0.1, 1, 0.01),),
    ),
    "going back": (chain, ArrayData(X, Y), PARTIAL, ROLLBACK),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_pause_changes_nothing(case: str) -> None:
    model, data, fit_args, edits = CASES[case]
    given = trainer(model(), data, **fit_args)
    assert given.resumable
    expected = outcome(given, edits, ())
    assert len(expected["steps"]) >= EPOCHS
    assert_equal(outcome(given, edits, (2, 3)), expected)


def test_training_paused_after_its_last_epoch_is_finished() -> None:
    given = trainer(chain(optimizer=averaging()))
    assert_equal(outcome(given, (), (1, EPOCHS)), outcome(given, (), ()))


def test_a_pause_changes_nothing_if_the_budget_ends_the_training() -> None:
    given = trainer(chain())
    expected = outcome(given, (), (), budget=800, reserve=20)
    assert len(expected["epochs"]) < EPOCHS
    assert_equal(outcome(given, (), (1,), budget=800, reserve=20), expected)


def test_epoch_values_survive_a_pause_without_monitoring() -> None:
    found = []
    for pauses in ((), (2,)):
        run = RecordedRun(pauses=pauses, watched=False)
        run.monitor = ManagedMonitor([], run.monitor.sampler, quiet=True)
        run.monitor.given = None
        trained = trainer(chain()).train(TrainingSpec(EPOCHS, 0), run)
        if trained.paused is not None:
            trained.paused.go_on()
        run.monitor.close()
        found.append(run.monitor.history)
    assert found[0].epoch == found[1].epoch == EPOCHS
    np.testing.assert_array_equal(found[0].epochs("loss")[1], found[1].epochs("loss")[1])


def test_paused_model_has_the_best_weights_until_it_continues() -> None:
    given = trainer(chain(optimizer=keras.optimizers.SGD(20.0)))
    run = RecordedRun(pauses=(4,))
    trained = given.train(TrainingSpec(EPOCHS, 0, (StopEarly(4),)), run)
    losses = [ended.loss for _, _, ended in run.ends if ended is not None]
    held = ArrayData(X, Y).take(np.arange(20))
    assert losses[-1] > min(losses)
    assert trained.evaluate(held).loss == pytest.approx(min(losses), rel=1e-5)
    assert trained.paused is not None
    assert not trained.paused.go_on()
    run.monitor.close()


def test_paused_training_can_be_abandoned() -> None:
    run = RecordedRun(pauses=(2,))
    trained = trainer(chain()).train(TrainingSpec(EPOCHS, 0), run)
    assert trained.paused is not None
    trained.paused.close()
    run.monitor.close()
    assert "fit" not in vars(trained.model)
    assert np.isfinite(trained.predict(X)).all()


def test_early_stopping_wins_over_a_pause() -> None:
    run = RecordedRun(pauses=(2,))
    trained = trainer(chain(optimizer=keras.optimizers.SGD(0.0))).train(TrainingSpec(EPOCHS, 0, (StopEarly(1),)), run)
    run.monitor.close()
    assert len(run.ends) == 2
    assert trained.paused is None


STREAM = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(70).batch(16)
RESUMABLE: dict[str, tuple[Any, dict[str, Any], bool]] = {
    "arrays": (None, {}, True),
    "callbacks of the first training alone": (None, {"callbacks": [keras.callbacks.TerminateOnNaN()]}, True),
    "callbacks of all": (None, {"callbacks": lambda: [keras.callbacks.TerminateOnNaN()]}, False),
    "a data set": (StreamData(STREAM), {}, False),
}


@pytest.mark.parametrize("case", RESUMABLE)
def test_trainer_reports_whether_trainings_can_be_paused(case: str) -> None:
    data, fit_args, expected = RESUMABLE[case]
    given = trainer(chain(), data, **fit_args)
    assert given.resumable is expected
    given.first = False
    assert (given.train(TrainingSpec(2, 0), RecordedRun(pauses=(1,))).paused is not None) is expected


def test_training_with_user_callbacks_is_not_paused() -> None:
    given = trainer(chain(), callbacks=[keras.callbacks.TerminateOnNaN()])
    assert given.train(TrainingSpec(2, 0), RecordedRun(pauses=(1,))).paused is None
    assert given.train(TrainingSpec(2, 0), RecordedRun(pauses=(1,))).paused is not None


def test_huge_models_are_not_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain()
    size = sum(4 * int(np.prod(v.shape)) for v in model.variables)
    for limit, expected in ((size, True), (size - 1, False)):
        monkeypatch.setattr(pausing, "_MAX_BYTES", limit)
        assert pausing.can_pause(model) is expected


def test_steps_with_stateful_random_operations_are_not_paused() -> None:
    """Seeding another training makes TensorFlow reset that state."""
    given = trainer(chain(TensorFlowNoise()))
    run = RecordedRun(pauses=(1,))
    assert given.train(TrainingSpec(2, 0), run).paused is None
    assert len(run.ends) == 1
    assert not given.resumable, "later trainings end instead of pausing"
