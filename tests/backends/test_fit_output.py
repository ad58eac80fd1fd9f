"""`fit` repairs outputs that don't fit the targets in both frameworks: units, activation, loss, range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.reporting.result import Result

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]


def _clusters(classes: int, rows: int = 300) -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    centers, labels = 2.5 * random.normal(size=(classes, 4)), random.integers(0, classes, rows)
    return (centers[labels] + random.normal(size=(rows, 4))).astype("float32"), labels


def _curve() -> tuple[Array, Array]:
    x = np.random.default_rng(0).normal(size=(400, 4)).astype("float32")
    return x, (np.tanh(x[:, 0]) + 0.5 * x[:, 1] * x[:, 2])[:, None].astype("float32")


def _fit(framework: str, x: Array, y: Array, units: int, activation: str, loss: str, **options: Any) -> Result:
    torch.set_num_threads(1)
    steps = x.ndim == 3
    if framework == "keras3":
        keras.utils.set_random_seed(0)
        model: Any = keras.Sequential(
            [keras.Input(x.shape[1:]), keras.layers.Dense(24, "relu"), keras.layers.Dense(units, activation)]
        )
        optimizer: Any = keras.optimizers.Adam(0.01)
        named: dict[str, Any] = {
            "bce": "binary_crossentropy", "mse": "mse",
            "ce": keras.losses.SparseCategoricalCrossentropy(from_logits=activation == "linear"),
        }  # fmt: skip
    else:
        torch.manual_seed(0)
        kinds: dict[str, Callable[[], nn.Module]] = {
            "linear": nn.Identity, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU,
            "softmax": lambda: nn.Softmax(-1),
        }  # fmt: skip
        last = [nn.Flatten(0, 1), nn.Unflatten(0, (-1, x.shape[1]))] if steps else []
        model = nn.Sequential(nn.Linear(x.shape[-1], 24), nn.ReLU(), nn.Linear(24, units), kinds[activation](), *last)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        named = {"bce": nn.BCELoss(), "mse": nn.MSELoss(), "ce": nn.CrossEntropyLoss()}
    half = len(x) * 3 // 5
    options = {"epochs": 20, "budget": 3.0, "progress": False} | options
    return autotrainer.fit(
        model, (x[:half], y[:half]), (x[half:], y[half:]), loss=named[loss], optimizer=optimizer, **options
    )


def _repaired(result: Result, repair: str, score: float, metric: str = "accuracy") -> None:
    tried = [(attempt.plan.repairs, attempt.score, attempt.error) for attempt in result.attempts]
    assert result.plan is not None, ([str(f) for f in result.findings], tried)
    assert repair in result.plan.repairs, tried
    assert result.metric == metric
    assert result.score > score, tried
    assert not result.baseline_score > score - 0.1


every_framework = pytest.mark.parametrize("framework", ["pytorch", "keras3"])
two_losses = pytest.mark.parametrize(("framework", "loss"), [("pytorch", "bce"), ("pytorch", "mse"), ("keras3", "bce")])
"""What a loss is does not depend on the framework, and is known from the same names in both."""


@two_losses
def test_class_indices_under_one_sigmoid_unit_get_a_unit_for_each_class(framework: str, loss: str) -> None:
    x, y = _clusters(3)
    result = _fit(framework, x, y[:, None].astype("float32"), 1, "sigmoid", loss)
    _repaired(result, "resize_output_layer", 0.9)
    assert result.findings[0].problem == "improper_loss"
    outputs = result.model(torch.tensor(x[:50])).detach().numpy() if framework == "pytorch" else result.model(x[:50])
    assert (np.asarray(outputs).argmax(1) == y[:50]).mean() > 0.9
    assert "output layer" in str(result.plan)


def test_fewer_units_than_classes() -> None:
    x, y = _clusters(5)
    result = _fit("pytorch", x, y, 3, "linear", "ce")
    _repaired(result, "resize_output_layer", 0.85)
    assert np.isnan(result.baseline_score), "it can't be trained as it is"
    assert result.cost <= 1.1


def test_fewer_units_than_tags() -> None:
    x = np.random.default_rng(0).normal(size=(300, 6, 4)).astype("float32")
    y = (x @ np.random.default_rng(1).normal(size=(4, 5))).argmax(-1)
    result = _fit("keras3", x, y, 3, "linear", "ce")
    _repaired(result, "resize_output_layer", 0.85)
    assert np.isnan(result.baseline_score), "it can't be trained as it is"
    assert result.cost <= 1.1


@every_framework
@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
def test_as_many_columns_as_targets(framework: str) -> None:
    x, y = _curve()
    result = _fit(framework, x, np.concatenate([y, -y, 2 * y], 1), 1, "linear", "mse")
    _repaired(result, "resize_output_layer", 0.5, "r2")


@two_losses
@pytest.mark.filterwarnings("ignore:.*using a softmax over axis:UserWarning")
def test_softmax_over_one_unit(framework: str, loss: str) -> None:
    x, y = _clusters(2)
    result = _fit(framework, x, y[:, None].astype("float32"), 1, "softmax", loss)
    _repaired(result, "fix_output_activation", 0.9)
    assert result.cost < 2


@pytest.mark.parametrize(  # Keras' sparse cross-entropy takes no rows of labels
    ("framework", "loss"), [("pytorch", "mse"), ("pytorch", "ce"), ("keras3", "bce")]
)
def test_several_labels_under_softmax(framework: str, loss: str) -> None:
    x, _ = _curve()
    labels = (x[:, :3] + 0.3 * x[:, 3:] > -0.3).astype("float32")
    _repaired(_fit(framework, x, labels, 3, "softmax", loss), "fix_output_activation", 0.9)


def test_codes_of_classes_under_softmax() -> None:
    x, y = _clusters(8, 480)
    bits = ((y[:, None] >> np.arange(3)) & 1).astype("float32")
    _repaired(_fit("pytorch", x, bits, 3, "softmax", "mse", epochs=30), "fix_output_activation", 0.85)


@pytest.mark.parametrize(("framework", "loss"), [("pytorch", "bce"), ("pytorch", "mse"), ("keras3", "mse")])
def test_autoencoder_of_pixels_under_sigmoid(framework: str, loss: str) -> None:
    random = np.random.default_rng(0)
    x = random.random((400, 3)) @ random.random((3, 16))
    x = (255 * x / x.max()).astype("float32")
    result = _fit(framework, x, x, 16, "sigmoid", loss)
    _repaired(result, "scale_targets", 0.9, "r2")
    outputs = result.model(torch.tensor(x[:50])).detach().numpy() if framework == "pytorch" else result.model(x[:50])
    assert np.abs(np.asarray(outputs) - x[:50]).mean() < 15, "in the units of the targets"


@pytest.mark.parametrize(
    ("framework", "activation", "offset"),
    [("pytorch", "tanh", 5.0), ("pytorch", "relu", -3.0), ("keras3", "tanh", 5.0)],  # relu of Keras is tested below
)
def test_numbers_out_of_reach(framework: str, activation: str, offset: float) -> None:
    x, y = _curve()
    _repaired(_fit(framework, x, y * 2 + offset, 1, activation, "mse"), "scale_targets", 0.85, "r2")


@every_framework
def test_raw_inputs_and_targets_of_billions_under_relu(framework: str) -> None:
    x, y = _curve()
    wide = x.astype("float64")
    wide[:, 3] = 3.2e9 + 1e6 * wide[:, 3]
    result = _fit(framework, wide.astype("float32"), 1e9 * (y + 3), 1, "relu", "mse")
    _repaired(result, "scale_targets", 0.85, "r2")
    assert "scale_inputs" in result.plan.repairs


@pytest.mark.parametrize("framework", ["pytorch", "keras3"])
def test_report_draws_the_original_training_and_the_returned_one(framework: str) -> None:
    x, y = _clusters(3)
    result = _fit(framework, x, y, 3, "linear", "ce", epochs=3, repair=False)
    report = result.report()
    assert report.charts is not None
    assert {"loss", "val_loss", "grad_norm", "learning_rate"} <= {curve.name for curve in report.charts.curves}
    assert report.charts.last_step + 1 == result.baseline_steps
    assert len(report.charts.epochs) == 3
    assert report.charts.layers is not None
    assert {"grad_norm", "update_ratio"} <= set(report.charts.layers.over_steps)
    assert {"loss", "val_loss"} <= set(report.curves)
    assert len(report.curves["loss"]) == 3
