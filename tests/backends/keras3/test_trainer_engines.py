"""Managed trainings on the other engines of Keras, each in a process of its own: the engine is fixed per process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

SCRIPT = """
import torch  # before Keras: the other order crashes with some builds
import keras, numpy as np
from autotrainer.exchange import FitRequest, TrainingSpec
from autotrainer.backends.keras3.trainer import make_trainer
from autotrainer.data import ArrayData
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


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_managed_training(engine: str, run_python: Callable[..., Any]) -> None:
    done = run_python(SCRIPT, KERAS_BACKEND=engine)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "fine" in done.stdout
