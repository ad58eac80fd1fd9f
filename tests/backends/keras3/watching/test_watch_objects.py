"""Models saved, copied, exported or freed while they are watched, and errors in their training: as without watching."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import re
import subprocess
import sys
import traceback
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import autotrainer

ROOT = Path(autotrainer.__file__).resolve().parents[1]
OURS = tuple(str(ROOT / name) for name in ("autotrainer", "backends"))
X = np.random.default_rng(0).normal(size=(48, 4)).astype("float32")
Y = np.random.default_rng(0).integers(0, 3, 48)
TENSORFLOW = keras.backend.backend() == "tensorflow"

Operation = Callable[[keras.Model, Path], Any]


@keras.saving.register_keras_serializable("objects")
class WithFault(keras.layers.Layer):  # type: ignore[misc]
    """Passes its inputs on, or raises."""

    fault = False

    def call(self, x: Any) -> Any:
        if self.fault:
            raise LookupError("the user's own")
        return x


def built(kind: str, **settings: Any) -> Any:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    if kind == "sequential":
        model = keras.Sequential(
            [
                keras.Input((4,), name="x"),
                layers.Dense(8, "relu", name="first"),
                layers.BatchNormalization(name="norm"),
                WithFault(name="fault"),
                layers.Dense(3, "softmax", name="last"),
            ],
            name="model",
        )
    else:
        inputs = keras.Input((4,), name="x")
        hidden = WithFault(name="fault")(layers.Dense(8, "relu", name="first")(inputs))
        model = keras.Model(inputs, layers.Dense(3, "softmax", name="last")(hidden), name="model")
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"], **settings)
    return model


def weights(model: Any) -> bytes:
    return b"".join(np.ascontiguousarray(values).tobytes() for values in model.get_weights())


def saved(model: Any, folder: Path) -> Any:
    model.save(folder / "model.keras")
    assert b"autotrainer" not in (folder / "model.keras").read_bytes()
    loaded = keras.models.load_model(folder / "model.keras")
    return weights(loaded), sorted(vars(loaded))


def saved_weights(model: Any, folder: Path) -> Any:
    model.save_weights(folder / "model.weights.h5")
    model.load_weights(folder / "model.weights.h5")


def cloned(model: Any, folder: Path) -> Any:
    clone = keras.models.clone_model(model)
    return sorted(vars(clone)), [layer.name for layer in clone.layers]


def deep_copy(model: Any, folder: Path) -> Any:
    copied = copy.deepcopy(model)
    assert not [name for name, value in vars(copied).items() if type(value).__module__.startswith("autotrainer")]
    copied.fit(X, Y, batch_size=24, shuffle=False, verbose=0)
    return weights(copied), sorted(vars(copied))


def pickled(model: Any, folder: Path) -> Any:
    content = pickle.dumps(model)
    assert b"autotrainer" not in content.replace(__name__.encode(), b"")
    return weights(pickle.loads(content))


def configuration(model: Any, folder: Path) -> Any:
    return str(model.get_config()), model.to_json()


def exported(model: Any, folder: Path) -> Any:
    if TENSORFLOW:
        model.export(folder / "exported", verbose=False)


def predicted(model: Any, folder: Path) -> Any:
    return model.predict(X[:4], verbose=0).tobytes(), model.evaluate(X, Y, verbose=0)


def remade_functions(model: Any, folder: Path) -> Any:
    model.make_train_function(force=True)
    model.make_test_function(force=True)


def compiled_again(model: Any, folder: Path) -> Any:
    model.compile(model.optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])


def part(model: Any, folder: Path) -> Any:
    return keras.Model(model.inputs, model.layers[0].output).predict(X[:4], verbose=0).tobytes()


def called_in_a_function(model: Any, folder: Path) -> Any:
    if not TENSORFLOW:
        return None
    import tensorflow as tf

    function = tf.function(lambda x: model(x, training=False))
    results = [function(X[:rows]).numpy().tobytes() for rows in (4, 5)]
    return results, function.experimental_get_tracing_count()


OPERATIONS: tuple[Operation, ...] = (
    saved,
    saved_weights,
    cloned,
    deep_copy,
    pickled,
    configuration,
    exported,
    predicted,
    remade_functions,
    compiled_again,
    part,
    called_in_a_function,
)
CHANGING = (remade_functions, compiled_again)
"""Operations that change how a model trains: tried one at a time, the others together in one training."""


def all_others(model: Any, folder: Path) -> Any:
    return [(each.__name__, each(model, folder)) for each in OPERATIONS if each not in CHANGING]


class At(keras.callbacks.Callback):  # type: ignore[misc]
    """Makes something from the model at one point of a training."""

    def __init__(self, when: str, make: Callable[[Any], None]) -> None:
        super().__init__()
        self._when, self._make = when, make

    def _reach(self, when: str) -> None:
        if self._when == when:
            self._when = ""
            self._make(self.model)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._reach("before a batch")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._reach("after a batch")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._reach("after an epoch")


POINTS = ("before fit", "before a batch", "after a batch", "after an epoch", "after fit")


def plain(value: Any) -> Any:
    """A result without the numbers that names get in a process."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return re.sub(r"_\d+", "", value) if isinstance(value, str) else value


def trained(kind: str, operation: Operation, when: str, folder: Path, *, watched: bool) -> tuple[Any, bytes, Any]:
    model, made = built(kind), []
    folder.mkdir(parents=True)

    def make(_: Any) -> None:
        made.append(plain(operation(model, folder)))

    context: Any = autotrainer.watch(model, select=(), overhead=1.0) if watched else nullcontext()
    with context as monitor:
        if when == "before fit":
            make(model)
        history = model.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=[At(when, make)])
        if when == "after fit":
            make(model)
    if monitor is not None:
        assert not monitor._failed
        assert monitor.history.steps[-1] == 5
    return made, weights(model), history.history


def check(kind: str, operation: Operation, when: str, folder: Path) -> None:
    alone = trained(kind, operation, when, folder / "alone", watched=False)
    assert trained(kind, operation, when, folder / "watched", watched=True) == alone


@pytest.mark.parametrize("operation", [saved, cloned, remade_functions], ids=lambda operation: operation.__name__)
def test_what_is_made_between_two_batches(operation: Operation, tmp_path: Path, record_property: Any) -> None:
    record_property("attacks", 1)
    check("functional", operation, "after a batch", tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Skipping variable loading")
@pytest.mark.filterwarnings("ignore:A total of 1 objects could not be loaded")
@pytest.mark.parametrize(("kind", "points"), [("sequential", POINTS[:2]), ("functional", POINTS[2:])])
@pytest.mark.parametrize("operation", [*CHANGING, all_others], ids=lambda operation: operation.__name__)
def test_what_is_made_at_any_point(
    operation: Operation, kind: str, points: tuple[str, ...], tmp_path: Path, record_property: Any
) -> None:
    for number, when in enumerate(points):
        if operation is compiled_again and when not in ("before fit", "after fit"):
            continue  # Keras can't do it
        check(kind, operation, when, tmp_path / str(number))
    record_property("attacks", len(points) * (1 if operation in CHANGING else len(OPERATIONS) - len(CHANGING)))


def remaining(fits: int, *, watched: bool, closed: bool) -> tuple[list[weakref.ref[Any]], Any]:
    """Train, drop the model, and return weak references to it and its parts, and the monitor."""
    model = built("functional")
    monitor = autotrainer.watch(model, overhead=1.0) if watched else None
    for _ in range(fits):
        model.fit(X, Y, batch_size=16, verbose=0, validation_split=0.25)
    if monitor is not None and closed:
        monitor.close()
    return [weakref.ref(item) for item in (model, model.optimizer, *model.layers, *model.variables)], monitor


@pytest.mark.slow
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "left open"])
@pytest.mark.parametrize("fits", [0, 1, 2])
def test_a_model_goes_when_an_unwatched_one_does(fits: int, closed: bool, record_property: Any) -> None:
    record_property("attacks", 1)
    remaining(1, watched=False, closed=False)
    gc.collect()
    gc.disable()
    try:
        alone = [reference() is not None for reference in remaining(fits, watched=False, closed=False)[0]]
        references, monitor = remaining(fits, watched=True, closed=closed)
        if closed:
            assert [reference() is not None for reference in references] <= alone
    finally:
        gc.enable()
    gc.collect()
    gc.collect()
    assert not any(reference() for reference in references)
    assert isinstance(monitor.findings, list)
    assert str(monitor.report())
    monitor.close()


def error_of(fault: str, *, watched: bool, caught: bool, **settings: Any) -> BaseException:
    """Return the error of a ``fit``, caught inside or outside of the block of `watch`."""
    model = built("functional", **settings)
    layer = model.get_layer("fault")
    x, y, callbacks = X, Y, []
    if fault == "layer":
        layer.fault = True
    elif fault == "inputs":
        x = np.ones((48, 7), "float32")
    elif fault == "callback":
        callbacks = [At("after a batch", lambda model: 1 / 0)]
    elif fault == "eager layer":
        callbacks = [At("after a batch", lambda model: setattr(layer, "fault", True))]
    elif fault == "data":
        y = np.zeros(5)
    elif fault == "interrupt":
        callbacks = [At("after a batch", _interrupt)]
    context: Any = autotrainer.watch(model, overhead=1.0) if watched else nullcontext()
    try:
        with context:
            try:
                model.fit(x, y, batch_size=16, verbose=0, callbacks=callbacks)
            except BaseException as error:
                if caught:
                    return error
                raise
    except BaseException as error:  # noqa: BLE001 - interrupts, too
        return error
    raise AssertionError("nothing was raised")


def _interrupt(model: Any) -> None:
    raise KeyboardInterrupt


def described(error: BaseException | None, hidden: frozenset[str] = frozenset()) -> list[Any]:
    parts = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        assert not [frame for frame in frames if frame.filename.startswith(OURS) and frame.name not in hidden]
        users = [(frame.name, frame.line) for frame in frames if frame.filename == __file__]
        parts.append((type(error), plain(str(error)), error.__suppress_context__, error.__cause__ is None, users))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return parts


@pytest.mark.parametrize("caught", [False, True], ids=["leaves the block", "caught in the block"])
@pytest.mark.parametrize("fault", ["layer", "inputs", "callback", "eager layer", "data", "interrupt"])
def test_errors_of_a_fit(fault: str, caught: bool, record_property: Any) -> None:
    record_property("attacks", 1)
    settings = {"run_eagerly": True} if fault == "eager layer" else {}
    # The replaced method itself has a frame until the error leaves the block.
    hidden = frozenset({"_fit"}) if caught else frozenset[str]()
    alone = described(error_of(fault, watched=False, caught=caught, **settings))
    assert described(error_of(fault, watched=True, caught=caught, **settings), hidden) == alone


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_on_other_engines(engine: str) -> None:
    environment = {**os.environ, "KERAS_BACKEND": engine, "JAX_PLATFORMS": "cpu"}
    going = "unwatched_one_does[1-left or unwatched_one_does[2-closed]"
    names = f"between_two_batches or {going} or (errors_of_a_fit and leaves)"
    tests = ["-k", names, "-m", "slow or not slow"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *tests, __file__],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert "passed" in run.stdout


STEPS_OF_ONE_TRAINING = """
import json, sys, warnings
import keras, numpy as np
import autotrainer
from contextlib import nullcontext

x = np.random.RandomState(0).randn(60, 4).astype("float32")
y = np.random.RandomState(0).randint(0, 3, 60)
traces = [0]

class Counted(keras.Sequential):
    def train_step(self, *args, **kwargs):
        traces[0] += 1
        return super().train_step(*args, **kwargs)

def trained(watched, epochs=8, **settings):
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = Counted([keras.Input((4,)), layers.Dense(8, "relu"), layers.BatchNormalization(), layers.Dropout(0.2),
                     layers.Dense(3, "softmax")])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"], **settings)
    traces[0] = 0
    late = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: counts.append(traces[0]))
    counts = []
    with autotrainer.watch(model, select=(), overhead=1.0) if watched else nullcontext():
        model.fit(x, y, batch_size=6, epochs=epochs, verbose=0, callbacks=[late], validation_data=(x, y),
                  validation_batch_size=60)
    return [w.tobytes().hex() for w in model.get_weights()], counts

results = {}
for name, settings in json.loads(sys.argv[1]).items():
    alone, first = trained(False, **settings)
    watched, second = trained(True, **settings)
    results[name] = [alone == watched, first, second]
print(json.dumps(results))
"""

SETTINGS = {
    "jit": {"jit_compile": True},
    "no jit": {"jit_compile": False},
    "eager": {"run_eagerly": True},
    "several": {"steps_per_execution": 3},
    "several without jit": {"steps_per_execution": 3, "jit_compile": False},
    "auto": {},
}
LEFT_OUT = {
    "tensorflow": ("no jit", "several without jit"),  # "auto" and "several" are the same on a CPU
    "torch": ("jit", "several", "several without jit"),  # Keras refuses or fails
    "jax": ("auto",),  # the same as "jit"
}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["tensorflow", "torch", "jax"])
def test_weights_and_traces_under_every_way_to_compile(engine: str, record_property: Any) -> None:
    settings = {name: each for name, each in SETTINGS.items() if name not in LEFT_OUT[engine]}
    if engine == "jax":  # these steps aren't compiled either: as in "eager", but slower
        settings |= {name: settings[name] | {"epochs": 2} for name in ("no jit", "several without jit")}
    record_property("attacks", len(settings))
    environment = {**os.environ, "KERAS_BACKEND": engine, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", STEPS_OF_ONE_TRAINING, json.dumps(settings)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    for name, (equal, alone, watched) in json.loads(run.stdout.splitlines()[-1]).items():
        assert equal, name
        if alone[-1] < 5 * len(alone):  # the step is compiled: 10 steps are in an epoch
            assert watched[-1] <= 2 * alone[-1] + 2, (name, alone, watched)
            # From step 64 on, steps that are sampled and steps that are not have both occurred.
            assert watched[-1] == watched[6], (name, alone, watched)
