"""Managed trainings on the other engines of Keras, each in its own process: the engine is fixed per process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

SCRIPT = """
import torch  # before Keras: the other order crashes with some builds
import keras, numpy as np
from autotrainer.adapter.spec import FitRequest, TrainingSpec
from autotrainer.backends.keras3.training.trainer import make_trainer
from autotrainer.records.data import ArrayData
from autotrainer.edits import *
from autotrainer.testing import RecordedRun

x = np.random.default_rng(0).normal(3.0, 2.0, (70, 4)).astype("float32")
data = ArrayData(x, (x[:, :1] > 3).astype("float32"))
layers = keras.layers
model = keras.Sequential([keras.Input((4,)), layers.Dense(8, "sigmoid", name="first"), layers.Dropout(0.2),
                          layers.Dense(1, "sigmoid")])
model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy", metrics=["accuracy"])
given = model.get_weights()
trainer = make_trainer(FitRequest(model, data, data, None, None, 3, 16))
found = []
for watched in (False, True):
    run = RecordedRun(watched=watched)
    trained = trainer.train(TrainingSpec(3, 0), run)
    run.monitor.close()
    found.append(trained.model.get_weights())
    losses = [e.loss for _, _, e in run.ends]
    assert len(losses) == 3 and losses[2] < losses[0], losses
    assert abs(trained.evaluate(data).loss - losses[2]) < 1e-6
assert all((a == b).all() for a, b in zip(*found))
assert all((a == b).all() for a, b in zip(given, model.get_weights()))
run = RecordedRun(300)
trainer.train(TrainingSpec(9, 0), run)
assert 250 < run.spent <= 300 and len(run.ends) == 1, (run.spent, len(run.ends))
edits = (ScaleInputs(), InsertNormalization(("first",)), SwapActivation(("first_activation",), "relu"),
         ReduceOnPlateau(0.5, 1), StopEarly(2), SetLoss("squared_error", "values"), ClipGradients("norm", 1.0))
trained = trainer.train(TrainingSpec(2, 0, edits), RecordedRun())
assert np.isfinite(trained.predict(x)).all()
print("fine")
"""


PAUSES = """
import torch
import keras, numpy as np
from keras import layers
from autotrainer.adapter.spec import FitRequest, TrainingSpec
from autotrainer.backends.keras3.training.trainer import make_trainer
from autotrainer.records.data import ArrayData
from autotrainer.edits import *
from autotrainer.testing import RecordedRun

rng = np.random.default_rng(0)
x, sequences = rng.normal(size=(70, 4)).astype("float32"), rng.normal(size=(70, 5, 3)).astype("float32")
y = (x[:, :1] * x[:, 1:2] > 0).astype("float32")

class Noise(layers.Layer):  # the global generator is known only in eager steps
    def call(self, inputs, training=False):
        seen = training and keras.backend.backend() == "torch"
        return inputs + 0.1 * keras.random.normal(inputs.shape) if seen else inputs

first, second = keras.Input((4,), name="first"), keras.Input((5, 3), name="second")
recurrent = layers.Flatten()(second)  # a recurrent layer takes long to compile on JAX
if keras.backend.backend() == "torch":
    recurrent = layers.LSTM(6, dropout=0.2, recurrent_dropout=0.2)(second)
joint = layers.BatchNormalization()(layers.Dense(6, name="hidden")(Noise()(layers.Concatenate()([first, recurrent]))))
model = keras.Model({"first": first, "second": second}, layers.Dense(1, "sigmoid")(layers.Dropout(0.2)(joint)))
model.compile(keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True), "binary_crossentropy", metrics=["accuracy"])
data = ArrayData({"first": x, "second": sequences}, y, rng.uniform(0.5, 2.0, 70).astype("float32"))

def trainer(**fit_args):
    return make_trainer(FitRequest(model, data, data.take(np.arange(20)), None, None, 5, 16, fit_args=fit_args))

assert not trainer(steps_per_epoch=3).resumable, "their iterators end within a pass"
given = trainer()
assert given.resumable

def outcome(edits, pauses):
    run = RecordedRun(pauses=pauses)
    trained = given.train(TrainingSpec(5, 0, edits), run)
    for _ in pauses:
        given.train(TrainingSpec(5, 1), RecordedRun(epochs=1, watched=False))
        trained.paused.go_on()
    run.monitor.close()
    state = [np.array(keras.ops.convert_to_numpy(v)) for v in [*trained.model.variables, *trained.optimizer.variables]]
    values = [[values["loss"], found.loss] for _, values, found in run.ends]
    return [*state, np.array(values), run.monitor.history.losses[1]]

skipping = () if keras.backend.backend() == "jax" else (SkipUpdates(),)
scheduled = (SwapOptimizer("adam", 0.02), WarmUpRate(3), AddDropout(("hidden",), 0.2), SetBatchSize(12), *skipping)
going_back = (SetLearningRate(30.0), ReduceOnPlateau(patience=1), StopEarly(3), Rollback(), ResetOptimizerState(2))
for edits in (scheduled, going_back):
    for old, new in zip(outcome(edits, ()), outcome(edits, (1, 3)), strict=True):
        np.testing.assert_array_equal(new, old, str(edits))
print("fine")
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_a_pause_changes_nothing(engine: str, run_python: Callable[..., Any]) -> None:
    done = run_python(PAUSES, KERAS_BACKEND=engine, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "fine" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_managed_training(engine: str, run_python: Callable[..., Any]) -> None:
    done = run_python(SCRIPT, KERAS_BACKEND=engine)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "fine" in done.stdout
