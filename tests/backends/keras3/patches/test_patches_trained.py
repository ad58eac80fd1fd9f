"""The lines of a patch, pasted after ``compile``, train like `fit` with the same edits."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from autotrainer import edits as e
from autotrainer.adapter.spec import FitRequest, Trained, TrainingSpec
from autotrainer.backends.keras3.data.batches import ArrayBatches
from autotrainer.backends.keras3.runtime.random_state import seed_everything
from autotrainer.backends.keras3.training.trainer import make_trainer
from autotrainer.records.data import ArrayData
from autotrainer.reporting.patch import in_patch_order, patch_lines
from autotrainer.testing import RecordedRun

pytestmark = pytest.mark.slow

EPOCHS, BATCH = 4, 32
RNG = np.random.default_rng(0)
X = RNG.normal(size=(260, 4)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int64")


def adam(rate: float = 0.01) -> Any:
    return keras.optimizers.Adam(rate)


def sgd(rate: float = 0.2) -> Any:
    return keras.optimizers.SGD(rate)


def model(optimizer: Any, normalized: bool = False) -> Any:
    keras.utils.set_random_seed(1)
    hidden = [
        layers.Dense(16, name="a"),
        *([layers.BatchNormalization()] if normalized else []),
        layers.Activation("tanh"),
    ]
    made = keras.Sequential(
        [keras.Input((4,)), *hidden, layers.Dense(16, "tanh", name="b"), layers.Dense(2, "softmax", name="out")]
    )
    made.compile(optimizer, keras.losses.SparseCategoricalCrossentropy())
    return made


def fitted(given: Any, x: Any, edits: Sequence[e.Edit], run: Any) -> Trained:
    request = FitRequest(given, ArrayData(x[:200], Y[:200]), ArrayData(X[200:], Y[200:]), None, None, EPOCHS, BATCH)
    return make_trainer(request).train(TrainingSpec(EPOCHS, 0).with_edits(edits), run)


def pasted(given: Any, x: Any, edits: Sequence[e.Edit]) -> Any:
    """Train as `fit` does by default: the same batches, in `Model.fit`, with the pasted lines."""
    names: dict[str, Any] = {
        "keras": keras, "np": np, "math": math, "model": given, "epochs": EPOCHS, "steps_per_epoch": 7,
        "x_train": x[:200], "y_train": Y[:200],
    }  # fmt: skip
    order, size = in_patch_order(edits), BATCH
    seed_everything(0)
    for edit in order:
        if isinstance(edit, e.ScaleInputs):
            names["x"] = names["x_train"]
        exec("\n".join(patch_lines(edit, "keras3", order)), names)
        if isinstance(edit, e.ScaleInputs):
            names["x_train"] = names["x"].astype("float32")
        size = edit.size if isinstance(edit, e.SetBatchSize) else size
    if "loss" in names:
        given.compile(given.optimizer, names["loss"])
    found = [names.get("plateau"), names.get("stopping"), names["Rollback"]() if "Rollback" in names else None]
    feed = ArrayBatches(ArrayData(names["x_train"], names["y_train"]), size, True, None)
    given.fit(
        **feed.arguments(names["epochs"], 0), epochs=names["epochs"], verbose=0,
        validation_data=(held_out(edits), Y[200:]), callbacks=[c for c in found if c is not None],
    )  # fmt: skip
    return given


def held_out(edits: Sequence[e.Edit]) -> Any:
    scale = next((edit for edit in edits if isinstance(edit, e.ScaleInputs)), None)
    return X[200:] if scale is None else ((X[200:] - scale.mean) / scale.std).astype("float32")


Make = Callable[[], Any]
CASES: list[tuple[Make, tuple[e.Edit, ...]]] = [
    (adam, ()),
    (adam, (e.SetLearningRate(0.03),)),
    (adam, (e.SwapOptimizer("rmsprop", 0.01),)),
    (adam, (e.SwapOptimizer("sgd", 0.1, momentum=0.9), e.SetLearningRate(0.05))),
    (sgd, (e.SwapOptimizer("adamw", 0.01),)),
    (sgd, (e.SetMomentum(0.9, nesterov=True), e.ClipGradients("norm", 0.1))),
    (sgd, (e.SetWeightDecay(0.3), e.WarmUpRate(10))),
    (adam, (e.SetWeightDecay(0.3), e.ClipGradients("value", 0.01))),
    (adam, (e.TuneAdam(0.95, 1e-5, clip_updates=True), e.SetLearningRate(0.02))),
    (adam, (e.TuneAdam(0.9, clip_updates=True), e.SetWeightDecay(0.3))),
    (adam, (e.WarmUpRate(9),)),
    (adam, (e.WarmUpRate(9), e.SetLearningRate(0.03))),
    (adam, (e.DecayRate(0.1),)),
    (adam, (e.DecayRate(0.1), e.WarmUpRate(9))),
    (adam, (e.ReduceOnPlateau(0.3, 1, 0.05), e.SetLearningRate(0.3))),
    (adam, (e.SetBatchSize(50),)),
    (adam, (e.ExtendTraining(6), e.DecayRate())),
    (lambda: adam(1.0), (e.StopEarly(1),)),
    (lambda: sgd(3.0), (e.Rollback(1.01, 0.1),)),
    (adam, (e.ScaleInputs(),)),
    (adam, (e.SetLoss("cross_entropy", "probabilities"),)),
    (adam, (e.ScaleOutputLayer(0.1),)),
]


@functools.cache
def plain(make: Make) -> Any:
    """Return the answers after a training without edits."""
    return fitted(model(make()), X, (), RecordedRun(watched=False)).predict(X[200:])


@pytest.mark.parametrize(("make", "edits"), CASES, ids=lambda value: str(value) if isinstance(value, tuple) else "")
def test_patch_trains_like_fit(make: Make, edits: tuple[e.Edit, ...], make_run: Any) -> None:
    trained = fitted(model(make()), X, edits, make_run())
    answers = trained.predict(X[200:])
    by_hand = pasted(model(make()), X, trained.edits)
    np.testing.assert_allclose(by_hand.predict(held_out(trained.edits), verbose=0), answers, rtol=1e-2, atol=1e-4)
    if edits and type(edits[0]) is not e.SetLoss:
        assert np.abs(answers - plain(make)).max() > 0.01, "the edits make a difference"


@pytest.mark.parametrize("edit", [e.Rollback(), e.DropBadRows()], ids=str)
@pytest.mark.parametrize("normalized", [False, True])
def test_patch_survives_a_nonfinite_row(edit: e.Edit, normalized: bool, make_run: Any) -> None:
    bad = X.copy()
    bad[7] = np.nan
    trained = fitted(model(adam(), normalized), bad, (edit,), make_run())
    by_hand = pasted(model(adam(), normalized), bad, trained.edits)
    answers = trained.predict(X[200:])
    assert np.isfinite(answers).all()
    np.testing.assert_allclose(by_hand.predict(X[200:], verbose=0), answers, rtol=1e-2, atol=1e-4)
