"""`fit` repairs data and targets: real trainings of both frameworks, one real fault each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer.edits import (
    DropBadRows,
    EncodeTargets,
    NumberClasses,
    ReshapeTargets,
    ResizeOutputLayer,
    ScaleTargets,
    ShuffleData,
)
from autotrainer.errors import DataError
from autotrainer.reporting.result import Result

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 4)).astype(np.float32)
LINE = (X[:, 0] - 2 * X[:, 1] + np.sin(2 * X[:, 2])).astype(np.float32)
CLASS = np.digitize(LINE, [-1.5, 1.5]).astype(np.int64)

pytestmark = pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")  # it is the fault


class CustomLoss(keras.losses.Loss):  # type: ignore[misc]
    """A custom squared error, which does not check shapes."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.square(y_true - y_pred)


class Torch:
    """Models, losses and data of PyTorch."""

    def net(self, units: int, activation: str | None = None) -> Any:
        torch.set_num_threads(1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, units)]
        return nn.Sequential(*layers, *([nn.Sigmoid()] if activation == "sigmoid" else []))

    def loss(self, name: str) -> Any:
        return {
            "squared": nn.MSELoss(),
            "own": lambda outputs, targets: ((outputs - targets) ** 2).mean(),
            "indices": nn.CrossEntropyLoss(),
            "binary": nn.BCELoss(),
        }[name]

    def adam(self, rate: float) -> Any:
        return lambda params: torch.optim.Adam(params, rate)

    def sgd(self, rate: float) -> Any:
        return lambda params: torch.optim.SGD(params, rate)

    def batches(self, x: Any, y: Any) -> Any:
        return DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), 32)


class Keras:
    """The same of Keras."""

    def net(self, units: int, activation: str | None = None) -> Any:
        def dense(units: int, seed: int, activation: str | None = "relu") -> Any:
            return keras.layers.Dense(units, activation, kernel_initializer=keras.initializers.GlorotUniform(seed))

        return keras.Sequential([keras.Input((4,)), dense(16, 0), dense(16, 1), dense(units, 2, activation)])

    def loss(self, name: str) -> Any:
        return {
            "squared": "mse",
            "own": CustomLoss(),
            "indices": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        }[name]

    def adam(self, rate: float) -> Any:
        return keras.optimizers.Adam(rate)

    def sgd(self, rate: float) -> Any:
        return keras.optimizers.SGD(rate)

    def batches(self, x: Any, y: Any) -> Any:
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(32)


@pytest.fixture(params=[Torch, Keras], ids=["pytorch", "keras3"])
def kit(request: pytest.FixtureRequest) -> Any:
    return request.param()


def fit(model: Any, train: Any, validation: Any = None, **options: Any) -> Result:
    return autotrainer.fit(model, train, validation, **{"epochs": 12, "budget": 3.0, "progress": False, **options})


def halves(x: Any, y: Any) -> tuple[Any, Any]:
    return (x[:400], y[:400]), (x[400:], y[400:])


def kinds(result: Result) -> list[type]:
    assert result.plan is not None, [str(f) for f in result.findings]
    return [type(edit) for edit in result.plan.edits]


def predict(model: Any, x: Any) -> Any:
    if isinstance(model, nn.Module):
        with torch.no_grad():
            return model(torch.from_numpy(x)).numpy()
    return np.asarray(model.predict_on_batch(x))


@pytest.mark.slow
@pytest.mark.parametrize(("kit", "optimizer"), [(Torch(), "sgd"), (Torch(), "adam"), (Keras(), "sgd")])
def test_large_targets(kit: Any, optimizer: str) -> None:
    targets = (2_000 * LINE + 50_000)[:, None]
    rate = kit.sgd(0.01) if optimizer == "sgd" else kit.adam(1e-3)
    result = fit(kit.net(1), *halves(X, targets), loss=kit.loss("squared"), optimizer=rate, epochs=20)
    assert result.status in ("repaired", "improved")
    assert ScaleTargets in kinds(result)
    first = result.attempts[0].plan
    assert first is not None
    assert [type(edit) for edit in first.edits] == [ScaleTargets], "the proven cause comes first"
    assert result.score > 0.7 > 0 > result.baseline_score
    predicted = predict(result.model, X[400:])
    assert 1 - np.mean((predicted - targets[400:]) ** 2) / targets[400:].var() == pytest.approx(result.score, abs=1e-3)
    assert "in the units of your targets" in str(result.plan)


def test_targets_of_the_wrong_shape(kit: Any) -> None:
    result = fit(kit.net(1), *halves(X, LINE), loss=kit.loss("own"), optimizer=kit.adam(1e-2))
    assert result.status == "repaired"
    assert kinds(result) == [ReshapeTargets]
    assert result.score > 0.9


@pytest.mark.parametrize("held_back", [False, True])
def test_rows_with_missing_values(kit: Any, held_back: bool) -> None:
    x = X.copy()
    x[:400][::37, 1] = np.nan
    data = ((x, LINE[:, None]), None) if held_back else halves(x, LINE[:, None])
    result = fit(kit.net(1), *data, loss=kit.loss("squared"), optimizer=kit.adam(1e-2))
    assert result.status == "repaired"
    assert result.plan is not None
    assert result.plan.edits == (DropBadRows(11),)
    assert "11 training rows" in str(result.plan)
    assert result.score > 0.9


def test_missing_targets_also_in_the_validation_data(kit: Any) -> None:
    y = LINE[:, None].copy()
    y[::29] = np.nan
    result = fit(kit.net(1), *halves(X, y), loss=kit.loss("squared"), optimizer=kit.adam(1e-2))
    assert result.status == "repaired"
    assert kinds(result) == [DropBadRows]
    assert result.score > 0.9


@pytest.mark.slow
def test_sorted_rows(kit: Any) -> None:
    order = np.argsort(CLASS[:400], kind="stable")
    train, held = kit.batches(X[:400][order], CLASS[:400][order]), kit.batches(X[400:], CLASS[400:])
    result = fit(kit.net(3), train, held, loss=kit.loss("indices"), optimizer=kit.sgd(0.3))
    assert result.status == "repaired"
    assert kinds(result) == [ShuffleData]


@pytest.mark.slow
def test_rare_classes(kit: Any) -> None:
    x = RNG.normal(size=(3_000, 4)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 2.4).astype(np.int64)
    held_x = RNG.normal(size=(4_000, 4)).astype(np.float32)
    held_y = (held_x[:, 0] + held_x[:, 1] > 2.4).astype(np.int64)
    even = np.r_[np.flatnonzero(held_y == 1), np.flatnonzero(held_y == 0)[: held_y.sum()]]
    data = (x, y), (held_x[even], held_y[even])
    result = fit(kit.net(2), *data, loss=kit.loss("indices"), optimizer=kit.sgd(1e-2), epochs=8)
    tried = [attempt for attempt in result.attempts if attempt.plan.repairs == ("weight_classes",)]
    assert tried, "a finding of rare classes leads to their weights"
    assert result.status in ("repaired", "improved")
    assert result.score > result.baseline_score + 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "status"), [(2.0, "repaired"), (7.0, "healthy")])
def test_rare_classes_count_in_the_score(kit: Any, gap: float, status: str) -> None:
    random = np.random.default_rng(0)
    y = (random.random(4_000) < 0.05).astype(np.int64)
    x = random.normal(size=(4_000, 4)).astype(np.float32)
    x[:, 0] += gap * y
    metric = "balanced_accuracy"
    result = fit(kit.net(2), (x, y), None, loss=kit.loss("indices"), optimizer=kit.adam(1e-3), epochs=8, metric=metric)
    assert result.status == status
    assert result.metric == metric
    assert result.score > 0.75
    assert (result.plan is not None and result.plan.repairs == ("weight_classes",)) is (status == "repaired")


@pytest.mark.parametrize("fault", ["large targets", "flat targets", "missing values"])
def test_data_repairs_in_a_custom_loop(fault: str) -> None:
    y = {"large targets": (2_000 * LINE + 50_000)[:, None], "flat targets": LINE}.get(fault, LINE[:, None])
    x = X[:400].copy()
    if fault == "missing values":
        x[::37, 1] = np.nan
    kit = Torch()
    model = kit.net(1)
    loop = autotrainer.Loop(
        model, torch.optim.Adam(model.parameters(), 3e-3), nn.MSELoss(), kit.batches(x, y[:400]), epochs=20,
        progress=False,
    )  # fmt: skip
    for _ in loop:
        for inputs, targets in loop.train_loader:
            loop.optimizer.zero_grad()
            loop.loss_fn(loop.model(inputs), targets).backward()
            loop.optimizer.step()
        residual = predict(loop.model, X[400:]).reshape(-1) - y[400:].reshape(-1)
        loop.end_epoch(val_r2=float(1 - np.mean(residual**2) / y[400:].var()))
    assert loop.result.status == "repaired"
    expected = {"large targets": ScaleTargets, "flat targets": ReshapeTargets, "missing values": DropBadRows}[fault]
    assert kinds(loop.result) == [expected]
    assert loop.result.score > 0.7


# -- repaired before the first training --------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [CLASS + 1, CLASS * 10 + 5])
def test_labels_out_of_range_are_renumbered(kit: Any, labels: Any) -> None:
    arguments = {"loss": kit.loss("indices"), "optimizer": kit.adam(1e-2)}
    result = fit(kit.net(3), *halves(X, labels), **arguments, test_data=(X[400:], labels[400:]))
    assert result.status == "repaired"
    assert kinds(result) == [NumberClasses]
    assert result.score > 0.75
    assert result.test_score == pytest.approx(result.score)
    assert np.mean(predict(result.model, X[400:]).argmax(1) == labels[400:]) == pytest.approx(result.score)
    assert np.isnan(result.baseline_score)
    assert result.cost <= 1.03, "the original is not trained; simple models cost a fortieth of a training"
    assert [f.problem for f in result.findings] == ["target_mismatch"]
    assert result.baseline_test_score is None
    assert "the original run reached no score" in str(result.report())
    assert "nan" not in str(result.report())
    with pytest.raises(DataError, match="number the classes from 0"):
        fit(kit.net(3), *halves(X, labels), **arguments, repair=False)
    with pytest.raises(DataError, match="number the classes from 0"):
        fit(kit.net(3), *halves(X, labels), **arguments, forbid=("encode_targets", "resize_output_layer"))


def test_labels_only_in_the_validation_data_are_rejected(kit: Any) -> None:
    labels = CLASS + 1
    labels[-1] = 7
    with pytest.raises(DataError, match="number the classes from 0"):
        fit(kit.net(3), *halves(X, labels), loss=kit.loss("indices"), optimizer=kit.adam(1e-2))


def test_more_classes_than_outputs_widen_the_output(kit: Any) -> None:
    arguments = {"loss": kit.loss("indices"), "optimizer": kit.adam(1e-2)}
    result = fit(kit.net(2), *halves(X, CLASS), **arguments)
    assert result.status == "repaired"
    assert ResizeOutputLayer in kinds(result)
    assert predict(result.model, X[:5]).shape == (5, 3)
    with pytest.raises(DataError, match="widen the output"):
        fit(kit.net(2), *halves(X, CLASS), **arguments, repair=False)


@pytest.mark.parametrize(
    ("kit", "units", "activation", "targets", "loss", "edit"),
    [
        (Torch(), 1, "sigmoid", (LINE > 0).astype(np.float32), "binary", ReshapeTargets()),
        (Torch(), 3, None, CLASS[:, None], "indices", EncodeTargets("index")),
        (Torch(), 3, None, CLASS.astype(np.float32), "indices", EncodeTargets("index")),
        (Keras(), 3, None, np.eye(3, dtype=np.float32)[CLASS], "indices", EncodeTargets("index")),
    ],
    ids=["flat labels", "column of indices", "indices as floats", "one-hot rows"],
)
def test_targets_that_the_loss_rejects(
    kit: Any, units: int, activation: Any, targets: Any, loss: str, edit: Any
) -> None:
    arguments = {"loss": kit.loss(loss), "optimizer": kit.adam(1e-2)}
    result = fit(kit.net(units, activation), *halves(X, targets), **arguments)
    assert result.status == "repaired"
    assert result.plan is not None
    assert result.plan.edits == (edit,)
    assert result.score > 0.75
    assert result.cost <= 1.03
    with pytest.raises((ValueError, RuntimeError)):
        fit(kit.net(units, activation), *halves(X, targets), **arguments, repair=False)


def test_failure_after_a_repair_reports_the_original_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from autotrainer.backends.pytorch.training.trainer import TorchTrainer

    plain: Callable[..., Any] = TorchTrainer.train

    def train(self: Any, spec: Any, run: Any) -> Any:
        if spec.edits:
            raise MemoryError("no room for the columns")
        return plain(self, spec, run)

    monkeypatch.setattr(TorchTrainer, "train", train)
    kit = Torch()
    with pytest.raises(DataError, match="number the classes from 0"):
        fit(kit.net(3), *halves(X, CLASS + 1), loss=kit.loss("indices"), optimizer=kit.adam(1e-2))
