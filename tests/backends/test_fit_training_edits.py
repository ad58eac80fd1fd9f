"""`fit` on faulty programs that edits of the training process repair: from the finding to the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch import nn

import autotrainer
from autotrainer import registry

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 4)).astype("float32")
SIGNS = (X[:, 0] * X[:, 1] > 0).astype("int64")
REAL = (X @ np.array([1, -2, 3, 1], "float32") + np.sin(3 * X[:, 0]))[:, None].astype("float32")

Case = tuple[Any, tuple[Any, Any], dict[str, Any]]


def fit(case: Case, *repairs: str, budget: float = 4, **options: Any) -> Any:
    """Run `fit` on a case, restricted to the named repairs if there are any."""
    model, data, arguments = case
    forbidden = [repair.name for repair in registry.repairs() if repair.name not in repairs] if repairs else []
    values = {"budget": budget, "progress": False, "forbid": forbidden, **arguments, **options}
    return autotrainer.fit(model, data, **values)


def mlp(*widths: int, seed: int = 1, outputs: int = 2, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    for before, width in zip((4, *widths[:-1]), widths, strict=True):
        modules += [nn.Linear(before, width), activation()]
    return nn.Sequential(*modules, nn.Linear(widths[-1], outputs))


def classes(model: nn.Module, optimizer: Any, epochs: int, **options: Any) -> Case:
    return model, (X, SIGNS), {"loss": nn.CrossEntropyLoss(), "optimizer": optimizer, "epochs": epochs, **options}


def numbers(model: nn.Module, optimizer: Any, epochs: int) -> Case:
    return model, (X, REAL), {"loss": nn.MSELoss(), "optimizer": optimizer, "epochs": epochs}


def sgd(rate: float) -> Any:
    return lambda params: torch.optim.SGD(params, rate)


def adam(rate: float) -> Any:
    return lambda params: torch.optim.Adam(params, rate)


def missing_parameters() -> Case:
    model = mlp(32, 32)
    return classes(model, torch.optim.SGD(model[0].parameters(), 0.1), 30)


def too_short() -> Case:
    return numbers(mlp(32, 32, outputs=1, activation=nn.Tanh), sgd(0.001), 15)


def vanishing_rate() -> Case:
    scheduler = {"scheduler": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.05)}
    return classes(mlp(32, 32), sgd(0.1), 30, **scheduler)


def evaluation_mode() -> Case:
    torch.manual_seed(1)
    modules: list[nn.Module] = []
    for width in (4, 16, 16, 16, 16, 16):
        modules += [nn.Linear(width, 16), nn.BatchNorm1d(16), nn.Sigmoid()]

    def step(model: nn.Module, batch: Any) -> Any:
        model.eval()
        outputs = model(batch[0])
        return nn.functional.cross_entropy(outputs, batch[1]), outputs, batch[1]

    return classes(nn.Sequential(*modules, nn.Linear(16, 2)), adam(0.01), 30, loss=None, step=step)


@pytest.mark.parametrize(
    ("case", "problem", "repair"),
    [
        (missing_parameters, "parameters_not_optimized", "complete_optimizer"),
        (too_short, "too_few_epochs", "extend_training"),
        (vanishing_rate, "wrong_schedule", "schedule_learning_rate"),
        (evaluation_mode, "wrong_training_mode", "set_mode"),
    ],
)
def test_proven_cause_is_repaired_in_the_first_attempt(case: Callable[[], Case], problem: str, repair: str) -> None:
    result = fit(case())
    assert problem in {finding.problem for finding in result.findings}
    assert result.status == "repaired"
    assert repair in result.plan.repairs
    assert len(result.attempts) == 1
    assert result.score > result.baseline_score + 0.2


def dead_units() -> Case:
    model = mlp(32, 32)
    nn.init.constant_(model[0].bias, -100.0)
    return classes(model, adam(0.01), 30)


def bad_row() -> Case:
    x = X[80:].copy()
    x[5] = np.nan
    model, _, options = classes(mlp(32, 32), adam(0.01), 20, validation_data=(X[:80], SIGNS[:80]))
    return model, (x, SIGNS[80:]), options


def rate_slightly_too_high() -> Case:
    x = X * np.array([1, 1, 1, 3], "float32")
    torch.manual_seed(0)
    y = (X @ np.array([1, 2, 3, 4], "float32"))[:, None]
    return nn.Sequential(nn.Linear(4, 1)), (x, y), {"loss": nn.MSELoss(), "optimizer": sgd(0.15), "epochs": 20}


def stale_optimizer_state(size: float, rate: float) -> Case:
    """An optimizer whose state comes from gradients of another size."""
    model = mlp(32, 32)
    used = torch.optim.Adam(model.parameters(), rate, betas=(0.0, 0.999))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, size)
    used.step()
    model.load_state_dict(start)
    return classes(model, used, 40)


def large_initial_weights() -> Case:
    """Large weights with high curvature at the start, which a lower rate leaves behind."""
    model = mlp(32, 32, 32, seed=1, outputs=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return numbers(model, sgd(0.03), 20)


def overflow() -> Case:
    model = mlp(32, 32)
    with torch.no_grad():
        for place in (0, 2):
            model[place].weight.mul_(300)
    _, _, options = classes(model, lambda params: torch.optim.Adam(params, 1e-3, eps=1e-4), 20)
    return model.half(), (X * 10, SIGNS), options


@pytest.mark.parametrize(
    ("case", "problem", "repair"),
    [
        (dead_units, "dying_relu", "revive_units"),
        (bad_row, "nonfinite", "skip_update"),
        (rate_slightly_too_high, "exploding_gradient", "rollback"),
        (lambda: stale_optimizer_state(1e8, 1e-3), "stale_second_moment", "reset_optimizer_state"),
        (lambda: stale_optimizer_state(1e3, 1e-2), "stale_second_moment", "tune_adam"),
        (overflow, "nonfinite", "raise_precision"),
        (large_initial_weights, "exploding_gradient", "warm_up_learning_rate"),
    ],
    ids=["revive", "skip", "rollback", "reset", "adam", "precision", "warm_up"],
)
def test_single_repair_in_pytorch(case: Callable[[], Case], problem: str, repair: str) -> None:
    result = fit(case(), repair)
    assert problem in {finding.problem for finding in result.findings}
    assert result.status in ("repaired", "improved")
    assert result.plan.repairs == (repair,)
    assert result.score > max(0.0, result.baseline_score) + 0.2


# -- Keras ------------------------------------------------------------------------------------------------------------


def keras_mlp(optimizer: Any, *, activation: str = "relu", regression: bool = False) -> Any:
    keras.utils.set_random_seed(1)
    hidden = [layers.Dense(32, activation, name=name) for name in ("a", "b")]
    last = layers.Dense(1, None if regression else "sigmoid", name="out")
    modules = keras.Sequential([keras.Input((4,)), *hidden, last])
    modules.compile(optimizer, "mse" if regression else "binary_crossentropy")
    return modules


def keras_classes(model: Any, epochs: int) -> Case:
    return model, (X, SIGNS[:, None].astype("float32")), {"epochs": epochs}


def keras_too_short() -> Case:
    model = keras_mlp(keras.optimizers.SGD(0.0005), activation="tanh", regression=True)
    return model, (X, REAL), {"epochs": 10}


def keras_vanishing_rate() -> Case:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.7)
    return keras_classes(keras_mlp(keras.optimizers.SGD(schedule)), 30)


def keras_dead_units() -> Case:
    model = keras_mlp(keras.optimizers.Adam(0.01))
    model.get_layer("a").bias.assign(np.full(32, -100.0))
    return keras_classes(model, 30)


def keras_bad_row() -> Case:
    model, (x, y), options = keras_classes(keras_mlp(keras.optimizers.Adam(0.01)), 15)
    bad = x[80:].copy()
    bad[5] = np.nan
    return model, (bad, y[80:]), {**options, "validation_data": (x[:80], y[:80])}


def keras_rate_slightly_too_high() -> Case:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.15), "mse")
    y = (X @ np.array([1, 2, 3, 4], "float32"))[:, None]
    return model, (X * np.array([1, 1, 1, 3], "float32"), y), {"epochs": 20}


@pytest.mark.parametrize(
    ("case", "repair"),
    [
        (keras_too_short, "extend_training"),
        (keras_vanishing_rate, "schedule_learning_rate"),
        (keras_dead_units, "revive_units"),
        (keras_bad_row, "skip_update"),
        (keras_rate_slightly_too_high, "rollback"),
    ],
    ids=["extend", "schedule", "revive", "skip", "rollback"],
)
def test_single_repair_in_keras(case: Callable[[], Case], repair: str) -> None:
    result = fit(case(), repair)
    assert result.status in ("repaired", "improved")
    assert result.plan.repairs == (repair,)
    assert result.score > max(0.0, result.baseline_score) + 0.15
