"""The demo's trainings in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autotrainer import watch
from autotrainer.demo.cases import BUDGET, SEED, Recipe
from autotrainer.demo.data import Rows, load

if TYPE_CHECKING:
    from torch import Tensor, nn

    from autotrainer.monitoring.monitor import Monitor

__all__ = ["fit_arguments", "train_watched"]


def fit_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of `autotrainer.fit` for a recipe."""
    import torch

    torch.set_num_threads(1)  # networks this small are slower with more threads
    split = load(recipe.data)
    return {
        "model": lambda: _model(recipe),
        "train_data": _rows(split.train, recipe),
        "validation_data": _rows(split.validation, recipe),
        "test_data": _rows(split.test, recipe),
        "loss": _loss(recipe),
        "optimizer": lambda parameters: _optimizer(recipe, parameters),
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "seed": SEED,
        "budget": BUDGET,
    }


def train_watched(recipe: Recipe) -> tuple[Monitor, float]:
    """Train in a plain loop inside `autotrainer.watch`; return the closed monitor and the accuracy on test data."""
    import torch

    torch.manual_seed(SEED)
    split = load(recipe.data)
    x, y = (torch.from_numpy(a) for a in _rows(split.train, recipe))
    model, loss_fn = _model(recipe), _loss(recipe)
    optimizer = _optimizer(recipe, model.parameters())
    with watch(model, optimizer, loss_fn=loss_fn, epochs=recipe.epochs) as monitor:
        for _ in range(recipe.epochs):
            model.train()
            for rows in torch.split(torch.randperm(len(x)), recipe.batch_size):
                optimizer.zero_grad()
                loss_fn(model(x[rows]), y[rows]).backward()
                optimizer.step()
            model.eval()
            monitor.end_epoch(val_accuracy=_accuracy(model, split.validation))
    return monitor, _accuracy(model, split.test)


def _accuracy(model: nn.Module, rows: Rows) -> float:
    import torch

    with torch.no_grad():
        outputs: Tensor = model(torch.from_numpy(rows[0]))
    predicted = outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0.5).long()
    return float((predicted == torch.from_numpy(rows[1])).float().mean())


def _rows(rows: Rows, recipe: Recipe) -> Rows:
    x, y = rows
    return x, y.astype(np.float32)[:, None] if recipe.data == "circle" else y


def _loss(recipe: Recipe) -> nn.Module:
    from torch import nn

    return nn.BCELoss() if recipe.data == "circle" else nn.CrossEntropyLoss()


def _optimizer(recipe: Recipe, parameters: Any) -> Any:
    import torch

    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, recipe.learning_rate)
    return torch.optim.SGD(parameters, recipe.learning_rate, recipe.momentum)


def _model(recipe: Recipe) -> nn.Module:
    """Build the model; a softmax output is left to the loss, as is usual in PyTorch."""
    from torch import nn

    activations = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
    modules: list[nn.Module] = []
    inputs = 2
    for layer in recipe.layers:
        linear = nn.Linear(inputs, layer.units)
        if layer.he:
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
        else:
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        modules.append(linear)
        if layer.activation in activations:
            modules.append(activations[layer.activation]())
        inputs = layer.units
    return nn.Sequential(*modules)
