"""`fit` from end to end: columns of inputs, rates of repaired trainings, lengths, initial weights, frozen layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.edits import (
    CompleteOptimizer,
    Edit,
    ExtendTraining,
    Reinitialize,
    ScaleInputs,
    SetLearningRate,
    SwapOptimizer,
    ThawLayers,
)
from autotrainer.errors import InputError
from autotrainer.reporting.result import Result

pytestmark = pytest.mark.slow

FRAMEWORKS = ("pytorch", "keras3")


def fit(
    framework: str,
    widths: Sequence[int],
    x: Any,
    y: Any,
    *,
    optimizer: str = "adam",
    rate: float,
    std: float | None = None,
    **options: Any,
) -> Result:
    """Train a network of ReLU layers with one sigmoid output, or a linear one for real targets."""
    binary = set(np.unique(y)) <= {0.0, 1.0}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    if framework == "pytorch":
        layers: list[nn.Module] = []
        for before, units in zip(widths, (*widths[1:], 1), strict=True):
            layers += [nn.Linear(before, units), nn.ReLU()]
        model = nn.Sequential(*layers[:-1])
        for layer in model if std is not None else ():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, std)
        kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        given: dict[str, Any] = {
            "loss": nn.BCEWithLogitsLoss() if binary else nn.MSELoss(),
            "optimizer": kinds[optimizer](model.parameters(), rate),
        }
    else:
        start = "glorot_uniform" if std is None else keras.initializers.RandomNormal(0, std, seed=1)
        dense = [keras.layers.Dense(units, "relu", kernel_initializer=start) for units in widths[1:]]
        model = keras.Sequential([keras.Input((widths[0],)), *dense, keras.layers.Dense(1, kernel_initializer=start)])
        kinds = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
        loss = keras.losses.BinaryCrossentropy(from_logits=True) if binary else "mse"
        given = {"loss": loss, "optimizer": kinds[optimizer](rate)}
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32).reshape(-1, 1)
    held = len(x) * 4 // 5
    return autotrainer.fit(
        model,
        (x[:held], y[:held]),
        (x[held:], y[held:]),
        **{"epochs": 20, "budget": 3.0, "progress": False} | given | options,
    )


def edit_of(result: Result, kind: type[Edit]) -> Any:
    assert result.plan is not None, str(result.report())
    return next(edit for edit in result.plan.edits if isinstance(edit, kind))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_columns_over_decades_are_scaled_one_by_one_and_row_numbers_dropped(framework: str) -> None:
    random = np.random.default_rng(1)
    prices, age = np.exp(random.normal(16, 3, 800)), random.normal(40, 10, 800)
    x = np.stack([prices, age, np.arange(800.0), np.full(800, 5.0)], axis=1)
    y = ((np.log(prices) - 16) / 3 + (age - 40) / 5 > 0).astype(float)
    result = fit(framework, (4, 16), x, y, rate=0.01)
    scaling = edit_of(result, ScaleInputs)
    assert (scaling.logarithmic, scaling.row_numbers, scaling.constant) == ((0,), (2,), (3,))
    assert result.status == "repaired"
    assert result.score > 0.9 > result.baseline_score
    assert result.plan is not None
    assert "input" in result.plan.changes


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("code", [-999.0, 1e20, None])
def test_numbers_for_missing_values_are_named_and_replaced(framework: str, code: float | None) -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(800, 4))
    y = x[:, 0] + 2 * x[:, 3] + 0.1 * random.normal(size=800)
    if code is None:
        x[:, 3] = random.standard_t(2, 800)
    else:
        x[random.random(800) < 0.12, 3] = code
    result = fit(framework, (4, 16), x, y, rate=0.003)
    found = [finding for finding in result.findings if finding.problem == "abnormal_data"]
    if code is None:
        assert not found
        return
    assert f"Column 3 of the inputs holds {code:g}" in found[0].message
    assert result.status == "repaired"
    assert [entry[0] for entry in edit_of(result, ScaleInputs).missing] == [3]
    assert result.score > 0.85 > result.baseline_score


@pytest.mark.parametrize("framework", FRAMEWORKS[:1])
def test_rate_is_looked_for_on_the_repaired_training(framework: str) -> None:
    random = np.random.default_rng(0)
    x = random.uniform(0, 3000, (800, 4))
    y = (x[:, 0] + x[:, 1] > 3000).astype(float)
    result = fit(framework, (4, 16), x, y, optimizer="sgd", rate=1e-6, budget=4.0)
    assert edit_of(result, ScaleInputs) is not None
    rates = [
        e.value if isinstance(e, SetLearningRate) else e.learning_rate
        for e in result.plan.edits
        if isinstance(e, SetLearningRate | SwapOptimizer)
    ]  # type: ignore[union-attr]
    assert min(rates) >= 1e-3
    assert result.score > 0.9


@pytest.mark.parametrize("framework", FRAMEWORKS[:1])  # test_fit_training_edits.py extends one of Keras
def test_length_is_extrapolated_from_the_validation_curve(framework: str) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 4))
    y = x @ np.array([1.0, -2.0, 0.5, 3.0])
    result = fit(framework, (4,), x, y, optimizer="sgd", rate=0.003, epochs=12, budget=8.0)
    finding = next(f for f in result.findings if f.problem == "too_few_epochs")
    assert finding.evidence["shortest_length"] <= finding.evidence["needed_length"]
    tried = [edit.epochs for a in result.attempts for edit in a.plan.edits if isinstance(edit, ExtendTraining)]
    assert abs(tried[0] - 12 * finding.evidence["needed_length"]) <= 1
    assert result.score > 0.9 > result.baseline_score


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_hidden_layers_are_reinitialized_together_where_the_signal_fades(framework: str) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 4))
    y = (x[:, 0] + x[:, 1] > 0).astype(float)
    result = fit(framework, (4, 12, 12, 12, 12), x, y, rate=1e-3, std=1e-3, epochs=15)
    layers = {name for edit in result.plan.edits if isinstance(edit, Reinitialize) for name in edit.layers}  # type: ignore[union-attr]
    assert len(layers) >= 3, "those after the first, or all"
    assert result.score > 0.9 > result.baseline_score


def test_optimizer_of_frozen_layers_alone_gets_the_others() -> None:
    random = np.random.default_rng(0)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = random.normal(size=(400, 4)).astype(np.float32)
    y = (x[:, :1] + x[:, 1:2] > 0).astype(np.float32)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model[0].parameters(), 0.01)
    model[0].requires_grad_(False)
    frozen = model[0].weight.detach().clone()
    options: dict[str, Any] = {"loss": nn.BCEWithLogitsLoss(), "optimizer": optimizer, "epochs": 15, "progress": False}
    result = autotrainer.fit(model, (x[:300], y[:300]), (x[300:], y[300:]), budget=3.0, **options)
    assert edit_of(result, CompleteOptimizer).layers == ("2",)
    assert result.score > 0.85 > result.baseline_score
    assert torch.equal(result.model[0].weight, frozen)


def _frozen(framework: str) -> tuple[Any, dict[str, Any]]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    if framework == "pytorch":
        model: Any = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)).requires_grad_(False)
        return model, {"loss": nn.BCEWithLogitsLoss(), "optimizer": lambda params: torch.optim.Adam(params, 0.01)}
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(16, "relu", name="0"), keras.layers.Dense(1, name="2")]
    )
    model.trainable = False
    return model, {"loss": keras.losses.BinaryCrossentropy(from_logits=True), "optimizer": keras.optimizers.Adam(0.01)}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_model_without_a_trainable_parameter_is_thawed_unless_that_is_forbidden(framework: str) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 4)).astype(np.float32)
    y = (x[:, :1] + x[:, 1:2] > 0).astype(np.float32)
    model, options = _frozen(framework)
    options |= {
        "train_data": (x[:300], y[:300]),
        "validation_data": (x[300:], y[300:]),
        "epochs": 10,
        "progress": False,
    }
    for refusal in ({"repair": False}, {"forbid": "thaw_layers"}, {"max_change": 0}, {"keep": ("*",)}):
        with pytest.raises(InputError, match="train"):
            autotrainer.fit(model, **options, **refusal)
    result = autotrainer.fit(model, **options, keep=("0",), budget=10)
    assert result.plan is not None
    assert result.plan.repairs[0] == "thaw_layers"
    assert "frozen layers" in result.plan.changes
    assert edit_of(result, ThawLayers).layers == ("2",)
    assert result.score > 0.8
    fresh, _ = result.plan.apply(_frozen(framework)[0], *([] if framework == "keras3" else [None]))
    first, last = (fresh[0], fresh[2]) if framework == "pytorch" else fresh.layers
    trained = (
        [p.requires_grad for p in (*first.parameters(), *last.parameters())]
        if framework == "pytorch"
        else [bool(layer.trainable_variables) for layer in (first, last)]
    )
    assert trained[0] is False
    assert trained[-1] is True
