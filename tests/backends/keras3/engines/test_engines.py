"""Keras on its other engines, each in its own process: the engine is fixed when Keras is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[4]

SCRIPT = """
import json, sys
import keras, numpy as np
from keras import layers as kl
from autotrainer.backends.keras3.watching.observer import observe
from autotrainer.backends.keras3.watching.probe import probe
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import StepSampler

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


ALL = """
import json, sys
for script in json.loads(sys.argv[1]):
    exec(script, {"__name__": "__main__"})
    for stream in (sys.stdout, sys.stderr):
        print("-- next --", file=stream, flush=True)
"""
Run = Callable[[str, str], tuple[str, str]]


@pytest.fixture(scope="module")
def run() -> Run:
    """Returns what a script prints on an engine: the last line, and the errors.

    All but the longest run in one process for each engine, since most of the time is that of imports.
    """
    seen: dict[tuple[str, str], tuple[str, str]] = {}

    def on_engine(engine: str, script: str) -> tuple[str, str]:
        if (engine, script) not in seen:
            shared = [SIGNALS] if engine == "tensorflow" else [SCRIPT, SIGNALS, PUBLIC]
            scripts = shared if script in shared else [script]
            env = {**os.environ, "KERAS_BACKEND": engine, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
            command = [sys.executable, "-c", ALL, json.dumps(scripts)]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=590, check=False)
            assert done.returncode == 0, done.stderr
            outputs, errors = (text.split("-- next --\n") for text in (done.stdout, done.stderr))
            for number, each in enumerate(scripts):
                seen[engine, each] = outputs[number].splitlines()[-1], errors[number]
        return seen[engine, script]

    return on_engine


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_everything_is_recorded_on_every_engine(engine: str, run: Run) -> None:
    last, notices = run(engine, SCRIPT)
    seen = json.loads(last)
    assert seen["equal"]
    assert seen["same attributes"]
    assert not seen["failed"]
    assert seen["engine"] == engine
    assert seen["steps"] == list(range(9))
    for name in ("losses", "gradients", "activations", "accuracy"):
        assert seen[name] == [True] * 9, name
    assert seen["epochs"] == ["accuracy", "evaluation_mode", "loss", "val_accuracy", "val_loss"]
    assert seen["probe"] == [True]
    assert "can't be watched" not in notices


SIGNALS = """
import json, keras, numpy as np
from keras import layers as kl
from autotrainer.backends.keras3.watching.observer import observe
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import StepSampler
from autotrainer.records.signals import LAYER_COLUMNS

x = np.random.RandomState(0).randn(72, 6, 5).astype("float32")
y = (x.sum(axis=(1, 2)) > 0).astype("int64")

class Subclass(keras.Model):  # without a graph
    def __init__(self):
        super().__init__()
        self.attention, self.norm = kl.MultiHeadAttention(2, 3, name="attention"), kl.BatchNormalization(name="norm")
        self.hidden, self.out = kl.Dense(7, "tanh", name="hidden"), kl.Dense(2, name="out")
        self.first = kl.Dense(4, "relu", name="first")

    def call(self, x, training=False):
        h = self.first(x)
        h = keras.ops.mean(self.attention(h, h), axis=1)
        return keras.ops.softmax(self.out(self.hidden(self.norm(h, training=training))))

def seen(optimizer):
    model = Subclass()
    model(x[:1])
    draws = np.random.RandomState(1)
    for w in model.trainable_weights:  # engines draw different numbers
        w.assign(draws.randn(*w.shape) * 0.5)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    monitor = Monitor([], StepSampler(), quiet=True)
    monitor.attach(observe(model, None, None, monitor))
    model.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
    monitor.close()
    assert not monitor._failed
    history = monitor.history
    found = {name: history.layer(name).tolist() for name in LAYER_COLUMNS}
    scalars = ("gradient_cosine", "training_mode", "accuracy", "learning_rate", "batch_size", "input_std")
    found |= {name: history.scalar(name).tolist() for name in scalars}
    return found | {"losses": history.losses[1].tolist()}, [history.steps.tolist(), [l.name for l in history.layers],
                                                           monitor.context.output_activation]

kinds = keras.optimizers
print(json.dumps([seen(kinds.SGD(0.1)), seen(kinds.Adam(0.01, clipnorm=1.0))]))
"""


@pytest.mark.slow
def test_all_engines_record_the_same(run: Run) -> None:
    found: dict[str, Any] = {engine: json.loads(run(engine, SIGNALS)[0]) for engine in ("tensorflow", "torch", "jax")}
    for place, (columns, facts) in enumerate(found["tensorflow"]):
        assert facts == [list(range(10)), ["first", "attention", "norm", "hidden", "out"], "softmax"]
        for engine in ("torch", "jax"):
            others, same = found[engine][place]
            assert same == facts
            for name, values in columns.items():
                rtol, atol = (0.2, 0) if name == "second_moment_ratio" else (0.01, 1e-5)  # divides by tiny moments
                rounded = name == "grad_zero_fraction"  # exact zeros depend on rounding
                np.testing.assert_allclose(
                    others[name], values, rtol, 0.05 if rounded else atol, err_msg=f"{engine} {name}"
                )
        known = [name for name, values in columns.items() if np.isfinite(np.array(values, float)).any()]
        assert {"grad_norm", "activation_std", "dead_units", "dormant", "attention_entropy"} < set(known)


WAYS = """
import jax, json, keras, numpy as np
from keras import layers as kl
from autotrainer.backends.keras3.watching.observer import observe
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import StepSampler

x = np.random.RandomState(0).randn(76, 12).astype("float32")
y = (x.sum(axis=1) > 0).astype("int64")

class OwnStep(keras.Sequential):
    def train_step(self, state, data):
        weights, frozen, optimizer, metrics = state
        def loss_of(weights):
            outputs, new = self.stateless_call(weights, frozen, data[0], training=True)
            return self.compute_loss(data[0], data[1], outputs), new
        (loss, frozen), gradients = jax.value_and_grad(loss_of, has_aux=True)(weights)
        weights, optimizer = self.optimizer.stateless_apply(optimizer, gradients, weights)
        return {"loss": loss}, (weights, frozen, optimizer, metrics)

class OwnFunction(keras.Sequential):
    def make_train_function(self, force=False):
        return super().make_train_function(force)

class Refusing(keras.Sequential):
    def train_step(self, state, data):
        if "call" in vars(self):
            raise TypeError("this can't be recorded")
        return super().train_step(state, data)

class Shaking(kl.Layer):
    def call(self, x):
        return x + np.random.rand()

class Gives(kl.Layer):  # returns a weight
    def build(self, shape):
        self.weight = self.add_weight(shape=(16, shape[-1]), name="weight")

    def call(self, x):
        return self.weight.value

class Adding(keras.Sequential):
    def call(self, x, training=None, mask=None):
        given = self.layers[0](x)
        for layer in self.layers[1:]:
            x = layer(x, training=training) if isinstance(layer, kl.Dropout) else layer(x)
        return x + keras.ops.sum(given) / 100

def train(watched, kind=keras.Sequential, first=(), policy=None, batch=None, **compiled):
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(policy or "float32")
    model = kind([kl.Input((12,)), *[make() for make in first], kl.Dense(8, "relu", name="a"), kl.Dropout(0.3),
                  kl.Dense(2, "softmax", name="out")])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", **compiled)
    monitor = Monitor([], StepSampler(), quiet=True)
    if watched:
        monitor.attach(observe(model, None, None, monitor))
    if batch:
        for rows in batch:
            model.train_on_batch(x[:rows], y[:rows])
    else:
        model.fit(x, y, epochs=2, batch_size=16, verbose=0)
    monitor.close()
    return model, monitor, np.random.rand()

def ways():
    yield "own step", dict(kind=OwnStep)
    yield "own function", dict(kind=OwnFunction)
    yield "refused", dict(kind=Refusing)
    yield "several steps a call", dict(steps_per_execution=3)
    yield "eager", dict(run_eagerly=True)
    yield "eager, several steps a call", dict(jit_compile=False, steps_per_execution=2)
    yield "scaled loss", dict(policy="mixed_float16")
    yield "numbers drawn while tracing", dict(first=[Shaking])
    yield "a weight as output", dict(kind=Adding, first=[Gives])
    yield "many shapes", dict(batch=[8, 9, 10, 8, 11])

found = {}
for name, options in ways():
    plain, _, drawn = train(False, **options)
    model, monitor, drawn_too = train(True, **options)
    history = monitor.history
    found[name] = {
        "equal": all(np.array_equal(a, b) for a, b in zip(plain.get_weights(), model.get_weights())),
        "same attributes": vars(model).keys() == vars(plain).keys(),
        "same numbers": drawn == drawn_too,
        "failed": sorted(monitor._failed),
        "steps": history.steps.tolist(),
        "losses": np.isfinite(history.losses[1]).tolist(),
        **{n: np.isfinite(history.layer(n)).all(axis=1).tolist() for n in ("grad_norm", "activation_std")},
        **{n: np.isfinite(history.scalar(n)).tolist() for n in ("input_std", "accuracy")},
    }
print(json.dumps(found))
"""


@pytest.mark.slow
def test_trainings_on_jax_are_not_changed(run: Run) -> None:
    last, notices = run("jax", WAYS)
    found = json.loads(last)
    for name, seen in found.items():
        assert seen["equal"], name
        assert seen["same attributes"], name
        assert seen["same numbers"], name
        assert not seen["failed"], name
        assert all(seen["losses"] + seen["input_std"]), name
        shown = [True] * len(seen["steps"])
        if name in ("own function", "refused"):
            shown = [False] * len(shown)
        if name == "many shapes":  # only Keras compiles the third and the fourth
            shown = [True, True, False, True, False]
        for what in ("grad_norm", "activation_std", "accuracy"):
            assert seen[what] == shown, (name, what)
    assert found["several steps a call"]["steps"] == [2, 5, 8, 11]
    assert found["eager, several steps a call"]["steps"] == [1, 3, 5, 7, 9, 11]
    assert notices.count("can't be watched") == 2


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
def test_keras_models_are_recognized_on_every_engine(engine: str, run: Run) -> None:
    assert run(engine, PUBLIC)[0].startswith("fine")
