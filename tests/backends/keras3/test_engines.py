"""Keras on its other engines, each in a process of its own: the engine is fixed when Keras is imported."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
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
def test_the_jax_engine_shows_what_goes_into_a_step_and_comes_out(
    run: Callable[[str], tuple[dict[str, Any], str]],
) -> None:
    seen, notices = run("jax")
    assert seen["equal"]
    assert seen["same attributes"]
    assert not seen["failed"]
    assert seen["engine"] == "jax"
    assert seen["losses"] == seen["gradients"] == [True] * 9
    assert not any(seen["activations"] + seen["accuracy"])
    assert seen["epochs"] == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert seen["probe"] == [True]
    assert notices.count("can't be watched") == 1


MOMENTS = """
import jax, json, keras, numpy as np
from keras import layers as kl
from autotrainer.backends.keras3.observer import observe
from autotrainer.monitor import Monitor
from autotrainer.sampler import StepSampler

x = np.random.RandomState(0).randn(64, 12).astype("float32")
y = (x.sum(axis=1) > 0).astype("int64")

def gradients(model, x, y):
    frozen = [v.value for v in model.non_trainable_variables]
    def loss(weights):
        return model.compute_loss(x, y, model.stateless_call(weights, frozen, x)[0])
    return [np.asarray(g) for g in jax.grad(loss)([v.value for v in model.trainable_variables])]

def compare(optimizer):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([kl.Input((12,)), kl.Dense(8, "relu", name="a"), kl.Dense(2, "softmax", name="out")])
    model.layers[0].bias.assign([-100.0] * 2 + [0.0] * 6)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    monitor = Monitor([], StepSampler(), quiet=True)
    monitor.attach(observe(model, None, None, monitor))
    expected = []
    for start in range(0, 64, 16):
        batch = x[start : start + 16], y[start : start + 16]
        found = gradients(model, *batch)
        expected.append([float(np.sqrt(sum((g ** 2).sum() for g in found[i : i + 2]))) for i in (0, 2)])
        model.train_on_batch(*batch)
    monitor.close()
    assert not monitor._failed
    history = monitor.history
    return {"expected": expected, "norms": history.layer("grad_norm").tolist(),
            "zeros": history.layer("grad_zero_fraction")[:, 0].tolist(),
            "moments": history.layer("second_moment_ratio")[:, 0].tolist(),
            "weights": history.layer("weight_norm")[:, 0].tolist(),
            "updates": history.layer("update_ratio")[:, 0].tolist(),
            "rates": history.scalar("learning_rate").tolist(), "inputs": history.scalar("input_std").tolist()}

kinds = keras.optimizers
print(json.dumps([compare(o) for o in (kinds.AdamW(0.01), kinds.Nadam(0.01), kinds.SGD(0.1, 0.9, nesterov=True),
                                       kinds.Adam(0.01, clipnorm=1.0), kinds.SGD(0.1))]))
"""


@pytest.mark.slow
def test_the_moments_of_optimizers_on_the_jax_engine_tell_the_gradients(run_python: Callable[..., Any]) -> None:
    done = run_python(MOMENTS, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    *known, clipped, plain = json.loads(done.stdout.splitlines()[-1])
    for seen in known:
        np.testing.assert_allclose(seen["norms"], seen["expected"], rtol=1e-4)
        assert min(seen["zeros"]) >= 0.25  # two of eight units are dead
    for seen in (clipped, plain):  # these do not tell
        assert np.isnan(seen["norms"]).all()
    for seen in (*known, clipped, plain):
        assert np.isfinite([seen["weights"], seen["updates"], seen["rates"], seen["inputs"]]).all()
    assert [bool(np.isfinite(seen["moments"]).all()) for seen in known] == [True, True, False]


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
