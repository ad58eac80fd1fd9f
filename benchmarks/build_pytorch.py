"""Builds and trains the programs of the cases in PyTorch, written as a user would write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.cases import Program
from benchmarks.datasets import Arrays
from benchmarks.modules_pytorch import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    Exponential,
    Lstm,
    SparseCategoricalCrossentropy,
    SummedCrossEntropy,
    initialize,
    initialize_lstm,
)
from benchmarks.scoring import score

__all__ = [
    "build",
    "fit_arguments",
    "loss_module",
    "make_optimizer",
    "predict",
    "step_counter",
    "to_inputs",
    "to_targets",
    "train",
]

_LOSSES: Mapping[str, Callable[[], nn.Module]] = {
    "bce": nn.BCELoss,
    "bce_clipped": BinaryCrossentropy,
    "bce_logits": nn.BCEWithLogitsLoss,
    "cce": CategoricalCrossentropy,
    "cce_noclip_sum": SummedCrossEntropy,
    "ce_logits": nn.CrossEntropyLoss,
    "mse": nn.MSELoss,
    "mse_sum": lambda: nn.MSELoss(reduction="sum"),
    "scce": SparseCategoricalCrossentropy,
}


def loss_module(program: Program) -> nn.Module:
    """Return the loss of a program as a module."""
    return _LOSSES[program.loss]()


def build(program: Program, input_shape: tuple[int, ...]) -> nn.Sequential:
    """Build the model with freshly drawn weights.

    Args:
        program: The recipe.
        input_shape: Shape of one input, channels last.

    Returns:
        The model; images and signals go in channels first, as `to_inputs` gives them.
    """
    # Channels first; a sequence stays (time, features) unless a convolution reads it.
    convolves = any(str(layer["type"]).startswith("conv") for layer in program.layers)
    shape = (input_shape[-1], *input_shape[:-1]) if convolves else input_shape
    modules: list[nn.Module] = []
    for layer in program.layers:
        made, shape = _layer(layer, shape, program.default_init)
        modules += made
    return nn.Sequential(*modules)


def make_optimizer(program: Program, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """Return the optimizer of a program for parameters of a model."""
    spec = program.optimizer
    name, lr = str(spec["name"]), float(spec["lr"])
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=spec.get("momentum", 0.0), nesterov=spec.get("nesterov", False))
    betas = {"betas": (spec.get("beta_1", 0.9), spec.get("beta_2", 0.999))} if name in ("adam", "nadam") else {}
    made = {
        "adagrad": torch.optim.Adagrad,
        "adam": torch.optim.Adam,
        "nadam": torch.optim.NAdam,
        "rmsprop": torch.optim.RMSprop,
    }[name]
    optimizer: torch.optim.Optimizer = made(parameters, lr=lr, **betas)
    return optimizer


def fit_arguments(program: Program, train: tuple[Any, Any], held: tuple[Any, Any], seed: int) -> dict[str, Any]:
    """Return what `autotrainer.fit` is to be given besides the schedule.

    Args:
        program: The recipe.
        train: Inputs and targets to train on.
        held: Inputs and targets to validate on.
        seed: Seed of the weights.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return {
        "model": build(program, train[0].shape[1:]),
        "train_data": (to_inputs(program, train[0]), to_targets(train[1])),
        "validation_data": (to_inputs(program, held[0]), to_targets(held[1])),
        "loss": loss_module(program),
        "optimizer": lambda parameters: make_optimizer(program, parameters),
    }


def step_counter(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], int]:
    """Return a function that says how many steps the optimizer has taken since this call."""
    done = [0]

    def count(*_: object) -> None:
        done[0] += 1

    optimizer.register_step_post_hook(count)
    return lambda: done[0]


def to_inputs(program: Program, x: NDArray[Any]) -> Tensor:
    """Return inputs as the model takes them."""
    values = torch.from_numpy(np.ascontiguousarray(x))
    return values.movedim(-1, 1).contiguous() if str(program.layers[0]["type"]).startswith("conv") else values


def to_targets(y: NDArray[Any]) -> Tensor:
    """Return targets as the loss takes them."""
    return torch.from_numpy(np.ascontiguousarray(y))


def predict(model: nn.Module, inputs: Tensor) -> NDArray[Any]:
    """Return raw outputs in evaluation mode."""
    model.eval()
    with torch.no_grad():
        outputs: NDArray[Any] = model(inputs).numpy()
    model.train()
    return outputs


def train(program: Program, data: Arrays, seed: int, watch: Callable[..., Any]) -> tuple[float, Any]:
    """Train a program from scratch in a plain loop.

    Args:
        program: The recipe.
        data: Its data; the test part also gives the values of each epoch's end.
        seed: Seed of weights and order.
        watch: Called as ``watch(model, optimizer, loss_fn=…, epochs=…)``; gives a context manager.

    Returns:
        The test score and what the context manager gave.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = build(program, data.x_train.shape[1:])
    loss_fn, optimizer = loss_module(program), make_optimizer(program, model.parameters())
    rows = torch.utils.data.TensorDataset(to_inputs(program, data.x_train), to_targets(data.y_train))
    loader = torch.utils.data.DataLoader(rows, program.batch_size, shuffle=True)
    x_test, y_test = to_inputs(program, data.x_test), to_targets(data.y_test)
    with watch(model, optimizer, loss_fn=loss_fn, epochs=program.epochs) as monitor:
        for _ in range(program.epochs):
            for x, y in loader:
                optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                optimizer.step()
            outputs = predict(model, x_test)
            values = {"val_loss": float(loss_fn(torch.from_numpy(outputs), y_test))}
            if program.metric != "r2":
                values["val_accuracy"] = score(program, outputs, data.y_test)
            monitor.end_epoch(**values)
    return score(program, predict(model, x_test), data.y_test), monitor


def _layer(
    layer: Mapping[str, Any], shape: tuple[int, ...], default_init: str
) -> tuple[list[nn.Module], tuple[int, ...]]:
    """Build one layer for inputs of a shape (channels first) and return it with the shape of its output."""
    kind = str(layer["type"])
    if kind == "flatten":
        return [nn.Flatten()], (math.prod(shape),)
    if kind == "dropout":
        return [nn.Dropout(layer["rate"])], shape
    if kind == "activation":
        return [_activation(str(layer["fn"]), layer.get("alpha", 0.01))], shape
    if kind == "batchnorm":
        return [nn.BatchNorm1d(shape[0]) if len(shape) < 3 else nn.BatchNorm2d(shape[0])], shape
    if kind in ("maxpool1d", "maxpool2d"):
        size = int(layer["size"])
        pool = nn.MaxPool1d(size) if kind == "maxpool1d" else nn.MaxPool2d(size)
        return [pool], (shape[0], *(n // size for n in shape[1:]))
    if kind == "lstm":
        both = bool(layer.get("bidirectional", False))
        sequences = bool(layer.get("return_sequences", False))
        lstm = Lstm(shape[-1], layer["units"], sequences=sequences, bidirectional=both)
        initialize_lstm(lstm.lstm, default_init)
        width = layer["units"] * (2 if both else 1)
        return [lstm], ((shape[0], width) if sequences else (width,))
    made: nn.Linear | nn.Conv1d | nn.Conv2d
    if kind == "dense":
        made, shape = nn.Linear(shape[-1], layer["units"]), (*shape[:-1], layer["units"])
    elif kind in ("conv1d", "conv2d"):
        conv = nn.Conv1d if kind == "conv1d" else nn.Conv2d
        made = conv(shape[0], layer["filters"], layer["kernel"], padding=layer["padding"])
        shape = (layer["filters"], *shape[1:])  # "same" padding and stride 1 only
    else:
        raise ValueError(f"unknown type of layer {kind!r}")
    initialize(made, layer, default_init)
    return [made, *([_activation(str(layer["activation"]), 0.01)] if layer.get("activation") else [])], shape


def _activation(name: str, alpha: float) -> nn.Module:
    made: dict[str, Callable[[], nn.Module]] = {
        "exponential": Exponential,
        "leaky_relu": lambda: nn.LeakyReLU(alpha),
        "relu": nn.ReLU,
        "sigmoid": nn.Sigmoid,
        "softmax": lambda: nn.Softmax(dim=-1),
        "tanh": nn.Tanh,
    }
    return made[name]()
