"""`fit` from end to end: trainings that can't run as given are repaired before their first step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer.edits import CompleteOptimizer, Edit
from autotrainer.errors import DataError, InputError
from autotrainer.reporting.result import Result

pytestmark = pytest.mark.slow

FRAMEWORKS = ("pytorch", "keras3")
ROWS = 400


def adam(params: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, 0.01)


def net(units: int = 1, *last: nn.Module) -> nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, units), *last)


def keras_net(units: int, activation: str | None, loss: Any) -> Any:
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(16, "relu")
    model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(units, activation)])
    model.compile(keras.optimizers.Adam(0.01), loss)
    return model


def sorted_data(classes: int) -> tuple[Any, Any]:
    """Return rows sorted by class, so that the first ones hold a single one."""
    x = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)
    order = x[:, 0].argsort(kind="stable")
    return x[order], np.arange(ROWS) * classes // ROWS


def fit(model: Any, train: Any, validation: Any = None, **options: Any) -> Result:
    return autotrainer.fit(model, train, validation, **{"epochs": 10, "budget": 3.0, "progress": False} | options)


def edits(result: Result) -> tuple[type[Edit], ...]:
    assert result.plan is not None, str(result.report())
    return tuple(map(type, result.plan.edits))


def test_optimizer_of_another_model_gets_the_parameters_of_this_one() -> None:
    x, y = sorted_data(2)
    options = {"loss": nn.CrossEntropyLoss(), "optimizer": adam(net(2).parameters())}
    result = fit(net(2), (x, y), **options)
    assert [f.problem for f in result.findings] == ["parameters_not_optimized"]
    assert edits(result) == (CompleteOptimizer,)
    assert result.score > 0.9
    assert result.cost < 1.2, "no other training was needed"
    for refused in ({"repair": False}, {"keep": ("*",)}, {"forbid": ("complete_optimizer",)}):
        with pytest.raises(InputError, match="owns none"):
            fit(net(2), (x, y), **options, **refused)


def test_two_reasons_why_a_training_cannot_run_are_fixed_together() -> None:
    x, y = sorted_data(2)
    targets = np.where(y[:, None] == 1, 2, 1).astype(np.float32)
    optimizer = adam(net().parameters())
    result = fit(net(1, nn.Sigmoid()), (x, targets), loss=nn.BCELoss(), optimizer=optimizer)
    assert [f.problem for f in result.findings] == ["improper_loss", "parameters_not_optimized"]
    assert CompleteOptimizer in edits(result)
    assert result.score > 0.9


@pytest.mark.parametrize("labels", [(1, 2), (-1, 1), (0, 255)])
def test_labels_out_of_the_range_of_the_loss_are_seen_in_all_rows(labels: tuple[int, int]) -> None:
    x, y = sorted_data(2)
    targets = np.where(y[:, None] == 1, *reversed(labels)).astype(np.float32)
    order = slice(None, None, -1 if labels[0] == 0 else 1)
    result = fit(net(1, nn.Sigmoid()), (x[order], targets[order]), loss=nn.BCELoss(), optimizer=adam)
    assert [f.problem for f in result.findings] == ["improper_loss"]
    assert result.score > 0.9
    assert result.cost < 1.2


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_stream_whose_later_labels_have_no_output_is_read_after_it_has_failed(framework: str) -> None:
    x, y = sorted_data(3)
    y = y + 1
    held = slice(None, None, 3)
    if framework == "pytorch":
        streams = [
            DataLoader(TensorDataset(torch.tensor(a), torch.tensor(b)), 32) for a, b in ((x, y), (x[held], y[held]))
        ]
        model: Any = net(3)
        options: dict[str, Any] = {"loss": nn.CrossEntropyLoss(), "optimizer": adam}
    else:
        streams = [tf.data.Dataset.from_tensor_slices(pair).batch(32) for pair in ((x, y), (x[held], y[held]))]
        model, options = keras_net(3, "softmax", "sparse_categorical_crossentropy"), {}
    result = fit(model, *streams, **options)
    assert [f.problem for f in result.findings] == ["target_mismatch"]
    assert result.score > 0.6
    with pytest.raises(DataError, match="class index 3"):
        fit(model, *streams, repair=False, **options)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_negative_targets_of_a_poisson_loss_are_a_regression_judged_by_r2(framework: str) -> None:
    x = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)
    y = (x @ np.array([[1.0], [-2.0], [0.5], [3.0]])).astype(np.float32)
    if framework == "pytorch":
        result = fit(net(), (x, y), loss=nn.PoissonNLLLoss(), optimizer=adam, metric="loss", epochs=15)
    else:
        result = fit(keras_net(1, "exponential", "poisson"), (x, y), metric="loss", epochs=15)
    assert result.findings[0].problem == "improper_loss"
    assert (result.metric, result.status) == ("r2", "repaired")
    assert result.score > 0.9


def test_a_loss_without_any_value_is_replaced_by_that_of_its_fix() -> None:
    x = np.random.default_rng(0).integers(0, 12, (240, 7))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(12, 16), nn.Linear(16, 5))  # the loss takes the classes second
    result = fit(model, (x, x % 5), loss=nn.CrossEntropyLoss(), optimizer=adam, epochs=3)
    assert [f.problem for f in result.findings] == ["target_mismatch"]
    assert result.status == "repaired"
    assert np.isfinite(result.score)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_steps_of_sequences_may_have_weights(framework: str) -> None:
    x = np.random.default_rng(0).normal(size=(200, 5, 4)).astype(np.float32)
    y = x[..., :3].argmax(2)
    y[:, 3:] = 0  # wrong labels that weigh nothing
    weights = np.ones((200, 5), np.float32)
    weights[:, 3:] = 0
    if framework == "pytorch":
        model: Any = nn.Sequential(nn.Flatten(0, 1), net(3), nn.Unflatten(0, (-1, 5)))
        model = nn.Sequential(model, Transposed())
        options: dict[str, Any] = {"loss": nn.CrossEntropyLoss(), "optimizer": adam}
    else:
        keras.utils.set_random_seed(0)
        layers = [keras.Input((5, 4)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3, "softmax")]
        model, options = keras.Sequential(layers), {"loss": "sparse_categorical_crossentropy"}
        options["optimizer"] = keras.optimizers.Adam(0.01)
    result = fit(model, (x, y, weights), repair=False, **options)
    outputs = result.model(torch.tensor(x)) if framework == "pytorch" else result.model.predict(x, verbose=0)
    classes = outputs.argmax(1 if framework == "pytorch" else 2)
    assert np.mean(np.asarray(classes)[:, 3:] == x[:, 3:, :3].argmax(2)) > 0.9
    with pytest.raises(DataError, match=r"of shape \(rows,\) or \(rows, 5\), not float32 of shape \(200, 4\)"):
        fit(model, (x, y, weights[:, :4]), **options)


class Transposed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.movedim(-1, 1)
