"""The trainings that ``make_pictures.py`` draws: for each problem a faulty one and a healthy one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch  # noqa: TID253 - only its script imports this file
from torch import nn  # noqa: TID253

from autotrainer.records.history import RunHistory

__all__ = ["PICTURES", "REPAIRED", "Picture", "Run"]

Data = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Run:
    """One training; every field is what an ordinary one has, unless a fault changes it.

    Attributes:
        model: Builds the model.
        data: Makes the training rows.
        optimizer: Makes the optimizer, from the model.
        loss: Makes the loss.
        epochs: Epochs.
        validation: Makes the validation rows; None without any.
        each_step: Is called with step, model and optimizer before each step.
        batch: Changes the rows of a step: step, x, y → x, y.
        zero_grad: Whether gradients are reset.
        shuffled: Whether rows are drawn in another order in each epoch.
    """

    model: Callable[[], nn.Module] = lambda: mlp()
    data: Callable[[], Data] = lambda: rows()
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = lambda model: sgd(model, 0.1)
    loss: Callable[[], Any] = nn.BCEWithLogitsLoss
    epochs: int = 10
    validation: Callable[[], Data] | None = None
    each_step: Callable[[int, nn.Module, torch.optim.Optimizer], object] = lambda *_: None
    batch: Callable[[int, torch.Tensor, torch.Tensor], Data] = lambda step, x, y: (x, y)
    zero_grad: bool = True
    shuffled: bool = True


@dataclass(frozen=True, slots=True)
class Picture:
    """What is shown of a faulty and a healthy run.

    Attributes:
        caption: What the faulty run does wrong, and the healthy one otherwise.
        faulty: The faulty run.
        healthy: The healthy one.
        curve: The points of a run to draw.
        axes: Labels of the axes.
        log: Whether the vertical axis is logarithmic.
    """

    caption: str
    faulty: Run
    healthy: Run = field(default_factory=Run)
    curve: Callable[[RunHistory], tuple[Sequence[float], Sequence[float]]] = lambda history: history.losses
    axes: tuple[str, str] = ("step", "training loss")
    log: bool = False


# -- parts of trainings ------------------------------------------------------------------------------------------------


def rows(count: int = 512, width: int = 8, scale: float = 1.0, offset: float = 0.0) -> Data:
    """Return rows with the label whether one column is larger than another."""
    x = torch.randn(count, width)
    return x * scale + offset, (x[:, :1] > x[:, 1:2]).float()


def numbers(count: int = 512, scale: float = 1.0, noise: float = 0.0) -> Data:
    """Return rows with a number as the target."""
    x = torch.randn(count, 8)
    return x, scale * (x[:, :1] - x[:, 1:2] + noise * torch.randn(count, 1))


def uncertain() -> Data:
    """Return rows with a label of which chance decides a part."""
    x = torch.randn(512, 8)
    return x, (x[:, :1] + torch.randn(512, 1) > 0).float()


def ring() -> Data:
    """Return points of the plane, with the label whether they lie in a ring."""
    x = torch.randn(512, 2)
    return x, ((x.norm(dim=1, keepdim=True) - 1.2).abs() < 0.4).float()


def mlp(
    units: int = 32, activation: Callable[[], nn.Module] = nn.ReLU, depth: int = 1, width: int = 8
) -> nn.Sequential:
    """Return a network of hidden layers of equal width."""
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Linear(units if number else width, units), activation()]
    return nn.Sequential(*layers, nn.Linear(units, 1))


def scaled(model: nn.Module, factor: float, bias: float = 0.0) -> nn.Module:
    """Return a model with weights multiplied by a factor, and biases of hidden layers shifted."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(factor)
                layer.bias.add_(bias if layer.out_features > 1 else 0.0)
    return model


def sgd(model: nn.Module, rate: float, **options: float) -> torch.optim.Optimizer:
    """Return plain SGD over a model's parameters."""
    return torch.optim.SGD(model.parameters(), lr=rate, **options)  # type: ignore[arg-type]


def adam(model: nn.Module, rate: float = 0.01) -> torch.optim.Optimizer:
    """Return Adam over a model's parameters."""
    return torch.optim.Adam(model.parameters(), lr=rate)


def decay(factor: float) -> Callable[[int, nn.Module, torch.optim.Optimizer], None]:
    """Return a schedule that multiplies the rate by a factor at each step."""

    def step(_step: int, _model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] *= factor

    return step


def with_gap(data: Data) -> Data:
    """Return rows of which one misses a value."""
    data[0][200, 3] = math.nan
    return data


def by_label(data: Data) -> Data:
    """Return rows in the order of their labels."""
    order = data[1][:, 0].argsort(stable=True)
    return data[0][order], data[1][order]


def careless_loss() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a cross-entropy that takes the logarithm of 0."""

    class Careless(nn.Module):
        def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            p = torch.sigmoid(20 * z)
            return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()

    return Careless()


# -- curves ------------------------------------------------------------------------------------------------------------


def scalar(column: str) -> Callable[[RunHistory], tuple[Sequence[float], Sequence[float]]]:
    """Return the curve of a value of the step."""
    return lambda history: (history.steps, history.scalar(column))


def layer(column: str, number: int) -> Callable[[RunHistory], tuple[Sequence[float], Sequence[float]]]:
    """Return the curve of a statistic of one layer."""
    return lambda history: (history.steps, history.layer(column)[:, number])


def by_layer(column: str, step: int) -> Callable[[RunHistory], tuple[Sequence[float], Sequence[float]]]:
    """Return a statistic of all layers that have it, at the first sampled step from one on."""

    def curve(history: RunHistory) -> tuple[Sequence[float], Sequence[float]]:
        row = history.layer(column)[np.searchsorted(history.steps, step)]
        known = np.flatnonzero(np.isfinite(row))
        return range(1, len(known) + 1), row[known]

    return curve


def epochs(name: str) -> Callable[[RunHistory], tuple[Sequence[float], Sequence[float]]]:
    """Return the curve of a value of the epochs."""
    return lambda history: history.epochs(name)


# -- pictures ----------------------------------------------------------------------------------------------------------

_LOW, _HIGH = Run(optimizer=lambda m: sgd(m, 1e-4)), Run(optimizer=lambda m: sgd(m, 50.0))
_SIGMOIDS = Run(model=lambda: mlp(8, nn.Sigmoid, 8), epochs=20)
_RELUS = Run(model=lambda: mlp(8, nn.ReLU, 8), epochs=20, optimizer=adam)
_ONE_UNIT = Run(model=lambda: nn.Sequential(*mlp(), nn.Softmax(1)), loss=nn.BCELoss)
_NUMBERS = Run(data=numbers, loss=nn.MSELoss, optimizer=lambda m: sgd(m, 0.02))


def _ring(rate: float) -> Run:
    model = lambda: mlp(width=2)  # noqa: E731
    optimizer = lambda m: sgd(m, rate, momentum=0.9)  # noqa: E731
    return Run(model, ring, optimizer, epochs=30, validation=ring)


_FEW = Run(
    data=lambda: numbers(100, noise=1.0), validation=lambda: numbers(500, noise=1.0), loss=nn.MSELoss, optimizer=adam,
    model=lambda: mlp(128), epochs=60,
)  # fmt: skip

PICTURES: Mapping[str, Picture] = {
    "vanishing_gradient": Picture(
        "Eight layers of sigmoids, and of ReLU: gradient norms after 100 steps.", _SIGMOIDS, _RELUS,
        by_layer("grad_norm", 100), ("layer", "gradient norm"), log=True,
    ),
    "exploding_gradient": Picture(
        "SGD with a learning rate of 50, and of 0.1.", _HIGH, curve=scalar("grad_norm"), log=True,
        axes=("step", "gradient norm"),
    ),
    "no_gradient": Picture(
        "A softmax over one unit lets no gradient through; a sigmoid does.", _ONE_UNIT,
        curve=scalar("grad_norm"), axes=("step", "gradient norm"),
    ),
    "dying_relu": Picture(
        "Biases of -6 let hardly a unit of the hidden layer be active; ordinary ones do.",
        Run(model=lambda: scaled(mlp(), 1.0, -6.0)), curve=layer("dead_units", 1), axes=("step", "share of dead units"),
    ),
    "saturated_activation": Picture(
        "Three layers of tanh with weights 50 times the usual, and usual ones.",
        Run(model=lambda: scaled(mlp(32, nn.Tanh, 3), 50.0)), Run(model=lambda: mlp(32, nn.Tanh, 3)),
        layer("saturated", 1), ("step", "share of saturated outputs"),
    ),
    "representation_collapse": Picture(
        "Eight layers of sigmoids give the same features for all inputs; those of ReLU do not.", _SIGMOIDS, _RELUS,
        by_layer("activation_spread", 100), ("layer", "spread over inputs"), log=True,
    ),
    "oscillating_loss": Picture(
        "SGD with momentum and a learning rate of 1, and of 0.02.", _ring(1.0), _ring(0.02),
        epochs("val_loss"), ("epoch", "validation loss"),
    ),
    "slow_convergence": Picture("SGD with a learning rate of 0.0001, and of 0.1.", _LOW),
    "not_learning": Picture("A softmax over one unit, and a sigmoid.", _ONE_UNIT),
    "divergence": Picture(
        "From step 80 on, the learning rate is 200 times as large; in the healthy run it stays.",
        Run(data=uncertain, epochs=15, each_step=lambda step, m, o: decay(200.0)(step, m, o) if step == 80 else None),
        Run(data=uncertain, epochs=15), log=True,
    ),
    "worse_than_simple_model": Picture("A learning rate of 0.0001, and of 0.1: a linear model solves this task.", _LOW),
    "improper_output_activation": Picture("A softmax over one unit, and a sigmoid.", _ONE_UNIT),
    "parameters_not_optimized": Picture(
        "The optimizer has the last layer only, and all layers: changes of weights in step 20.",
        Run(model=lambda: mlp(depth=3), optimizer=lambda m: sgd(m[-1], 0.1)), Run(model=lambda: mlp(depth=3)),
        by_layer("update_ratio", 20), ("layer", "change ÷ weight"),
    ),
    "missing_zero_grad": Picture(
        "Without and with zero_grad.", Run(zero_grad=False), curve=scalar("grad_norm"), axes=("step", "gradient norm"),
        log=True,
    ),
    "abnormal_initial_loss": Picture(
        "Weights 30 times the usual, and usual ones.", Run(model=lambda: scaled(mlp(), 30.0)), log=True,
    ),
    "learning_rate_too_high": Picture("SGD with a learning rate of 50, and of 0.1.", _HIGH, log=True),
    "learning_rate_too_low": Picture("SGD with a learning rate of 0.0001, and of 0.1.", _LOW),
    "wrong_schedule": Picture(
        "The learning rate falls by 10% with each step, and by 1%.",
        Run(each_step=decay(0.9), epochs=20), Run(each_step=decay(0.99), epochs=20),
        scalar("learning_rate"), ("step", "learning rate"), log=True,
    ),
    "too_few_epochs": Picture(
        "Two epochs, and twenty.", Run(epochs=2, optimizer=lambda m: adam(m, 0.003)),
        Run(epochs=20, optimizer=lambda m: adam(m, 0.003)),
    ),
    "insufficient_capacity": Picture(
        "One hidden unit for whether a point lies in a ring, and 32.",
        *(Run(model=lambda n=n: mlp(n, width=2), optimizer=adam, epochs=60, data=ring) for n in (1, 32)),
    ),
    "abnormal_data": Picture("Inputs around 5000 with a spread of 200, and standardized ones.",
        Run(data=lambda: rows(scale=200.0, offset=5000.0)), log=True),
    "nonfinite_data": Picture("One row with a missing value: from its batch on there is no loss.",
        Run(data=lambda: with_gap(rows()))),
    "nonfinite": Picture("A cross-entropy by hand, with the logarithm of 0, and that of the framework.",
        Run(loss=careless_loss, optimizer=adam), Run(optimizer=adam)),
    "unshuffled_data": Picture("Rows in the order of their labels, and in a new order in each epoch.",
        Run(data=lambda: by_label(rows()), shuffled=False)),
    "unscaled_targets": Picture("Targets of a thousand, and standardized ones: loss ÷ its first value.",
        Run(data=lambda: numbers(scale=1000.0), loss=nn.MSELoss, optimizer=adam),
        Run(data=numbers, loss=nn.MSELoss, optimizer=adam),
        lambda history: (history.losses[0], history.losses[1] / history.losses[1][0]),
        ("step", "relative loss"), log=True),
    "target_mismatch": Picture("Targets without the axis that the outputs have, which broadcasts, and with it.",
        Run(data=lambda: tuple(t if t.ndim > 1 and n == 0 else t[:, 0] for n, t in enumerate(numbers())),
            loss=nn.MSELoss, optimizer=lambda m: sgd(m, 0.02)), _NUMBERS),
    "overfitting": Picture("A network of 128 units on 100 noisy rows, and on 5,000.", _FEW,
        Run(data=lambda: numbers(5000, noise=1.0), validation=lambda: numbers(500, noise=1.0), loss=nn.MSELoss,
            optimizer=lambda m: adam(m, 0.001), model=lambda: mlp(128), epochs=8),
        epochs("val_loss"), ("epoch", "validation loss")),
    "poor_initialization": Picture("Weights a tenth of the usual in eight layers of tanh, and twice the usual: step 0.",
        Run(model=lambda: scaled(mlp(8, nn.Tanh, 8), 0.1)), Run(model=lambda: scaled(mlp(8, nn.Tanh, 8), 2.0)),
        by_layer("activation_spread", 0), ("layer", "spread over inputs"), log=True),
}  # fmt: skip

REPAIRED: Mapping[str, str] = {
    "add_residual": "vanishing_gradient",
    "fix_output_activation": "improper_output_activation",
    "insert_normalization": "vanishing_gradient",
    "scale_learning_rate": "learning_rate_too_low",
    "swap_activation": "vanishing_gradient",
    "swap_optimizer": "slow_convergence",
}
"""For each repair, the problem in whose faulty run it is shown."""
