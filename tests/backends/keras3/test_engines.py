"""Keras on its other engines, each in a process of its own: the engine is fixed when Keras is imported."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

SCRIPT = """
import json, sys
import keras, numpy as np
from keras import layers as kl
from autotrainer.backends.keras3.observer import observe
from autotrainer.backends.keras3.probe import probe
from autotrainer.monitor import Monitor
from autotrainer.sampler import StepSampler

x = np.random.RandomState(0).randn(96, 12).astype("float32")
y = (x.sum(axis=1) > 0).astype("int64")

def train(watched):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([kl.Input((12,)), kl.Dense(8, "relu", name="a"), kl.Dropout(0.3), kl.BatchNormalization(),
                              kl.Dense(2, "softmax", name="out")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    monitor = Monitor([], StepSampler(), quiet=True)
    if watched:
        monitor.attach(observe(model, None, None, monitor))
    model.fit(x, y, epochs=3, verbose=0, validation_split=0.25)
    monitor.close()
    return model, monitor

plain, _ = train(False)
model, monitor = train(True)
history = monitor.history
context, seen = probe(model, (x, y), None, None, 2)
print(json.dumps({
    "equal": all(np.array_equal(a, b) for a, b in zip(plain.get_weights(), model.get_weights())),
    "same attributes": vars(model).keys() == vars(plain).keys(),
    "failed": sorted(monitor._failed),
    "engine": monitor.context.engine,
    "epochs": sorted(history.epoch_names),
    "steps": history.steps.tolist(),
    "losses": [bool(np.isfinite(v)) for v in history.losses[1]],
    "gradients": [bool(v) for v in np.isfinite(history.layer("grad_norm")[:, 0])],
    "activations": [bool(v) for v in np.isfinite(history.layer("activation_std")[:, 0])],
    "accuracy": [bool(v) for v in np.isfinite(history.scalar("accuracy"))],
    "probe": [bool(np.isfinite(o.loss)) for o in seen],
}))
"""


@pytest.fixture
def run(run_python: Callable[..., Any]) -> Callable[[str], tuple[dict[str, Any], str]]:
    def on_engine(engine: str) -> tuple[dict[str, Any], str]:
        done = run_python(SCRIPT, KERAS_BACKEND=engine, JAX_PLATFORMS="cpu")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    return on_engine


@pytest.mark.slow
def test_the_torch_engine_shows_everything(run: Callable[[str], tuple[dict[str, Any], str]]) -> None:
    seen, notices = run("torch")
    assert seen["equal"]
    assert seen["same attributes"]
    assert not seen["failed"]
    assert seen["engine"] == "torch"
    assert seen["steps"] == list(range(9))
    for name in ("losses", "gradients", "activations", "accuracy"):
        assert seen[name] == [True] * 9, name
    assert seen["epochs"] == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert seen["probe"] == [True]
    assert "can't be watched" not in notices


@pytest.mark.slow
def test_the_jax_engine_shows_losses_and_epochs_and_says_so_once(
    run: Callable[[str], tuple[dict[str, Any], str]],
) -> None:
    seen, notices = run("jax")
    assert seen["equal"]
    assert seen["same attributes"]
    assert not seen["failed"]
    assert seen["engine"] == "jax"
    assert seen["losses"] == [True] * 9
    assert not any(seen["gradients"])
    assert seen["epochs"] == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert seen["probe"] == [True]
    assert notices.count("can't be watched") == 1


PUBLIC = """
import autotrainer, keras, numpy as np

x = np.random.RandomState(0).randn(96, 12).astype("float32")
y = (x.sum(axis=1) > 0).astype("int64")
model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2, "softmax")])
model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
assert not autotrainer.check(model, (x, y))
with autotrainer.watch(model) as monitor:
    model.fit(x, y, epochs=2, verbose=0)
assert "keras3" in str(monitor.report()), monitor.report()
result = autotrainer.fit(model, (x, y), epochs=2, progress=False)
assert isinstance(result.model, keras.Model)
print("fine", result.status)
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_a_keras_model_is_one_on_every_engine(engine: str, run_python: Callable[..., Any]) -> None:
    done = run_python(PUBLIC, KERAS_BACKEND=engine, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    assert "fine" in done.stdout
