"""Parts that the pictured trainings are put together from: rows, models, optimizers."""

from __future__ import annotations

from collections.abc import Callable

import torch  # noqa: TID253 - only make_pictures.py imports this file
from torch import nn  # noqa: TID253

__all__ = ["Data", "adam", "decay", "mlp", "numbers", "ring", "rows", "scaled", "sgd", "three_classes", "uncertain"]

Data = tuple[torch.Tensor, torch.Tensor]


def rows(count: int = 512, width: int = 8, scale: float = 1.0, offset: float = 0.0) -> Data:
    """Return rows with the label whether one column is larger than another."""
    x = torch.randn(count, width)
    return x * scale + offset, (x[:, :1] > x[:, 1:2]).float()


def numbers(count: int = 512, scale: float = 1.0, noise: float = 0.0) -> Data:
    """Return rows with a number as the target."""
    x = torch.randn(count, 8)
    return x, scale * (x[:, :1] - x[:, 1:2] + noise * torch.randn(count, 1))


def three_classes(count: int = 512) -> Data:
    """Return rows with the label which of three columns is the largest."""
    x = torch.randn(count, 8)
    return x, x[:, :3].argmax(1)


def uncertain() -> Data:
    """Return rows with a label of which chance decides a part."""
    x = torch.randn(512, 8)
    return x, (x[:, :1] + torch.randn(512, 1) > 0).float()


def ring() -> Data:
    """Return points of the plane, with the label whether they lie in a ring."""
    x = torch.randn(512, 2)
    return x, ((x.norm(dim=1, keepdim=True) - 1.2).abs() < 0.4).float()


def mlp(
    units: int = 32,
    activation: Callable[[], nn.Module] = nn.ReLU,
    depth: int = 1,
    width: int = 8,
    outputs: int = 1,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return a network of hidden layers of equal width."""
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Linear(units if number else width, units), activation()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(units, outputs))


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


def adam(model: nn.Module, rate: float = 0.01, **options: float) -> torch.optim.Optimizer:
    """Return Adam over a model's parameters."""
    return torch.optim.Adam(model.parameters(), lr=rate, **options)  # type: ignore[arg-type]


def decay(factor: float) -> Callable[[int, nn.Module, torch.optim.Optimizer], None]:
    """Return a schedule that multiplies the rate by a factor at each step."""

    def step(_step: int, _model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] *= factor

    return step
