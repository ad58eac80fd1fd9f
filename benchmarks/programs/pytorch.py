"""Builds and trains the programs of the cases in PyTorch, as a user would write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autotrainer.errors import ConfigError
from benchmarks.cases.case import Program
from benchmarks.cases.scoring import score
from benchmarks.cases.vocabulary import walk
from benchmarks.data.datasets import Arrays
from benchmarks.programs.pytorch_layers import make_layers
from benchmarks.programs.pytorch_losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    LogSquaredError,
    SparseCategoricalCrossentropy,
    SummedCrossEntropy,
    TokenCrossEntropy,
    UnclippedBinaryCrossentropy,
)

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
    "bce_noclip": UnclippedBinaryCrossentropy,
    "bce_sum": lambda: nn.BCELoss(reduction="sum"),
    "cce": CategoricalCrossentropy,
    "cce_noclip_sum": SummedCrossEntropy,
    "ce_logits": nn.CrossEntropyLoss,
    "log_squares": LogSquaredError,
    "mae": nn.L1Loss,
    "mse": nn.MSELoss,
    "mse_sum": lambda: nn.MSELoss(reduction="sum"),
    "scce": SparseCategoricalCrossentropy,
    "scce_sum": lambda: SparseCategoricalCrossentropy("sum"),
}


def loss_module(program: Program) -> nn.Module:
    """Return the loss of a program as a module."""
    if program.loss == "ce_logits" and program.metric == "tag_accuracy":
        return TokenCrossEntropy()
    return _LOSSES[program.loss]()


def build(program: Program, input_shape: tuple[int, ...]) -> nn.Sequential:
    """Build the model with freshly drawn weights.

    Args:
        program: The recipe.
        input_shape: Shape of one input, channels last.

    Returns:
        The model; it takes images and signals channels first, as `to_inputs` returns them.
    """
    shape = (input_shape[-1], *input_shape[:-1]) if _convolves(program) else input_shape
    return nn.Sequential(*make_layers(program.layers, shape, program.default_init)[0])


def _convolves(program: Program) -> bool:
    """Return whether inputs are channels first; a sequence stays (time, features) unless a convolution reads it."""
    return any(str(layer["type"]).startswith("conv") for layer in walk(program.layers))


def make_optimizer(program: Program, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """Return the optimizer of a program for parameters of a model."""
    spec = program.optimizer
    name, lr = str(spec["name"]), float(spec["lr"])
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=spec.get("momentum", 0.0), nesterov=spec.get("nesterov", False))
    more: dict[str, Any] = {}
    if name in ("adam", "adamw", "nadam"):
        more["betas"] = (spec.get("beta_1", 0.9), spec.get("beta_2", 0.999))
    if name == "rmsprop":
        more["alpha"] = 0.9  # as in Keras; 0.99 makes the first steps three times as long
    if "weight_decay" in spec:
        more["weight_decay"] = spec["weight_decay"]
    factory = {
        "adagrad": torch.optim.Adagrad,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "nadam": torch.optim.NAdam,
        "rmsprop": torch.optim.RMSprop,
    }[name]
    optimizer: torch.optim.Optimizer = factory(parameters, lr=lr, **more)
    return optimizer


def fit_arguments(program: Program, train: tuple[Any, Any], validation: tuple[Any, Any], seed: int) -> dict[str, Any]:
    """Return the arguments of `autotrainer.fit` except the schedule.

    Args:
        program: The recipe.
        train: Inputs and targets to train on.
        validation: Inputs and targets to validate on.
        seed: Seed of the weights.

    Raises:
        ConfigError: If the fault is in the training loop, which `autotrainer.fit` replaces.
    """
    if not program.managed("pytorch"):
        raise ConfigError("the fault is in the training loop, which fit replaces")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rows: Any = (to_inputs(program, train[0]), to_targets(train[1]))
    if "shuffle" in program.loop:
        rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*rows), program.batch_size)
    return {
        "model": build(program, train[0].shape[1:]),
        "train_data": rows,
        "validation_data": (to_inputs(program, validation[0]), to_targets(validation[1])),
        "loss": loss_module(program),
        "optimizer": lambda parameters: make_optimizer(program, parameters),
    }


def step_counter(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], int]:
    """Return a function that counts the optimizer's steps since this call."""
    done = [0]

    def count(*_: object) -> None:
        done[0] += 1

    optimizer.register_step_post_hook(count)
    return lambda: done[0]


def to_inputs(program: Program, x: NDArray[Any]) -> Tensor:
    """Return inputs in the layout of the model."""
    values = torch.from_numpy(np.ascontiguousarray(x))
    return values.movedim(-1, 1).contiguous() if _convolves(program) else values


def to_targets(y: NDArray[Any]) -> Tensor:
    """Return targets as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(y))


def predict(model: nn.Module, inputs: Tensor, *, evaluation: bool = True) -> NDArray[Any]:
    """Return raw outputs in evaluation mode, or in training mode."""
    model.train(not evaluation)
    with torch.no_grad():
        outputs: NDArray[Any] = model(inputs).numpy()
    model.train()
    return outputs


def train(program: Program, data: Arrays, seed: int, watch: Callable[..., Any]) -> tuple[float, Any]:
    """Train a program from scratch in a plain loop.

    Args:
        program: The recipe.
        data: Its data; the test part is also the validation data.
        seed: Seed of weights and order.
        watch: Called as ``watch(model, optimizer, loss_fn=…, epochs=…)``; returns a context manager.

    Returns:
        The test score and the value of the context manager.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, loop = build(program, data.x_train.shape[1:]), program.loop
    loss_fn, optimizer = loss_module(program), make_optimizer(program, _optimized(program, model, data))
    rows = torch.utils.data.TensorDataset(to_inputs(program, data.x_train), to_targets(data.y_train))
    loader = torch.utils.data.DataLoader(rows, program.batch_size, shuffle=loop.get("shuffle", True))
    x_test, y_test = to_inputs(program, data.x_test), to_targets(data.y_test)
    evaluation, schedule = loop.get("evaluation") != "train", loop.get("schedule")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, max(1, program.epochs // 2), 0.1) if schedule else None
    with watch(model, optimizer, loss_fn=loss_fn, epochs=program.epochs) as monitor:
        for _ in range(program.epochs):
            model.train(loop.get("mode") != "eval")
            for x, y in loader:
                if loop.get("zero_grad", True):
                    optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                if "clip_norm" in program.optimizer:
                    nn.utils.clip_grad_norm_(model.parameters(), program.optimizer["clip_norm"])
                optimizer.step()
                if scheduler is not None and schedule == "per_batch":
                    scheduler.step()
            if scheduler is not None and schedule == "per_epoch":
                scheduler.step()
            outputs = predict(model, x_test, evaluation=evaluation)
            values = {"val_loss": float(loss_fn(torch.from_numpy(outputs), y_test))}
            if program.metric != "r2":
                values["val_accuracy"] = score(program, outputs, data.y_test)
            monitor.end_epoch(**values)
    return score(program, predict(model, x_test, evaluation=evaluation), data.y_test), monitor


def _optimized(program: Program, model: nn.Sequential, data: Arrays) -> list[nn.Parameter]:
    """Return the parameters for the optimizer, faulty or not."""
    weighted = [layer for layer in model if any(True for _ in layer.parameters())]
    return list(
        {
            "all": model,
            "first": weighted[0],
            "last": weighted[-1],
            # As if the model had been rebuilt after the optimizer was created
            "none": build(program, data.x_train.shape[1:]) if program.loop.get("optimized") == "none" else model,
        }[program.loop.get("optimized", "all")].parameters()
    )
