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
from benchmarks.cases.scoring import CONTRASTIVE_MARGIN, score
from benchmarks.cases.vocabulary import walk
from benchmarks.data.datasets import Arrays
from benchmarks.programs.pytorch_composite import COMPOSITES
from benchmarks.programs.pytorch_layers import make_layers
from benchmarks.programs.pytorch_losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    ContrastiveLoss,
    LogisticRankingLoss,
    LogSquaredError,
    MarginRankingLoss,
    SparseCategoricalCrossentropy,
    SummedCrossEntropy,
    TokenCrossEntropy,
    UnclippedBinaryCrossentropy,
)
from benchmarks.programs.pytorch_transformer_training import train_transformer

__all__ = [
    "build",
    "channels_last",
    "fit_arguments",
    "for_loss",
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
    "ce_flat": nn.CrossEntropyLoss,
    "ce_logits": nn.CrossEntropyLoss,
    "ce_transposed": nn.CrossEntropyLoss,
    "contrastive": lambda: ContrastiveLoss(CONTRASTIVE_MARGIN),
    "huber": nn.HuberLoss,
    "logistic_rank": LogisticRankingLoss,
    "log_squares": LogSquaredError,
    "mae": nn.L1Loss,
    "margin_rank": MarginRankingLoss,
    "mse": nn.MSELoss,
    "mse_sum": lambda: nn.MSELoss(reduction="sum"),
    "poisson": nn.PoissonNLLLoss,
    "scce": SparseCategoricalCrossentropy,
    "scce_sum": lambda: SparseCategoricalCrossentropy("sum"),
}


_DECAY = 0.9
"""Factor of the rate after each epoch, schedule ``exponential``."""


def loss_module(program: Program) -> nn.Module:
    """Return the loss of a program as a module."""
    if program.loss == "ce_logits" and program.metric == "tag_accuracy" and not _gives_images(program):
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


def _gives_images(program: Program) -> bool:
    """Return whether outputs are images, channels first."""
    return str(program.layers[-1]["type"]) == "conv2d"


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
        "adadelta": torch.optim.Adadelta,
        "adagrad": torch.optim.Adagrad,
        "adam": torch.optim.Adam,
        "adamax": torch.optim.Adamax,
        "adamw": torch.optim.AdamW,
        "nadam": torch.optim.NAdam,
        "rmsprop": torch.optim.RMSprop,
    }[name]
    optimizer: torch.optim.Optimizer = factory(parameters, lr=lr, **more)
    return optimizer


def make_scheduler(program: Program, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler | None:
    """Return the schedule of a program; None if its rate is constant."""
    if "schedule" in program.loop:
        return torch.optim.lr_scheduler.StepLR(optimizer, max(1, program.epochs // 2), 0.1)
    name = program.optimizer.get("schedule")
    if name == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, program.epochs)
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, _DECAY) if name == "exponential" else None


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
    rows: Any = (to_inputs(program, train[0]), to_targets(train[1], program))
    if "shuffle" in program.loop:
        rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*rows), program.batch_size)
    return {
        "model": build(program, train[0].shape[1:]),
        "train_data": rows,
        "validation_data": (to_inputs(program, validation[0]), to_targets(validation[1], program)),
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


def to_targets(y: NDArray[Any], program: Program | None = None) -> Tensor:
    """Return targets as a tensor; images channels first if the outputs of the program are."""
    values = torch.from_numpy(np.ascontiguousarray(y))
    images = program is not None and _gives_images(program) and values.ndim == 4
    return values.movedim(-1, 1).contiguous() if images else values


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
    if program.layers[0]["type"] == "transformer":
        return train_transformer(program, data, make_optimizer, watch)
    composite = COMPOSITES.get(str(program.layers[0]["type"]))
    if composite is not None:
        return composite(program, data, make_optimizer, watch)
    model, loop = build(program, data.x_train.shape[1:]), program.loop
    loss_fn, optimizer = loss_module(program), make_optimizer(program, _optimized(program, model, data))
    scheduler = make_scheduler(program, optimizer)
    rows = torch.utils.data.TensorDataset(to_inputs(program, data.x_train), to_targets(data.y_train, program))
    loader = torch.utils.data.DataLoader(rows, program.batch_size, shuffle=loop.get("shuffle", True))
    x_test, y_test = to_inputs(program, data.x_test), to_targets(data.y_test, program)
    evaluation, schedule = loop.get("evaluation") != "train", loop.get("schedule")
    functional, reports = "loss_call" in loop, "reporting" not in loop
    options = {"epochs": program.epochs} if reports else {}
    with watch(model, optimizer, loss_fn=None if functional else loss_fn, **options) as monitor:
        for _ in range(program.epochs):
            model.train(loop.get("mode") != "eval")
            for x, y in loader:
                if loop.get("zero_grad", True):
                    optimizer.zero_grad()
                outputs, y = for_loss(program, model(x), y)
                # Calling `forward` passes by the hooks of the module, as a function does
                loss = loss_fn.forward(outputs, y) if functional else loss_fn(outputs, y)
                loss.backward()
                if "clip_norm" in program.optimizer:
                    nn.utils.clip_grad_norm_(model.parameters(), program.optimizer["clip_norm"])
                optimizer.step()
                if functional:
                    monitor.log(loss=loss)
                if scheduler is not None and schedule == "per_batch":
                    scheduler.step()
            if scheduler is not None and schedule != "per_batch":
                scheduler.step()
            predicted = predict(model, x_test, evaluation=evaluation)
            loss = loss_fn(*for_loss(program, torch.from_numpy(predicted), y_test))
            values = {"val_loss": float(loss)}
            if program.metric != "r2":
                values["val_accuracy"] = score(program, channels_last(program, predicted), data.y_test)
            if reports:
                monitor.end_epoch(**values)
    predicted = channels_last(program, predict(model, x_test, evaluation=evaluation))
    return score(program, predicted, data.y_test), monitor


def for_loss(program: Program, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs and targets in the shapes that the loop passes to the loss."""
    if program.loss == "ce_flat":
        return outputs.flatten(0, -2), y.flatten()
    return (outputs.transpose(1, 2), y) if program.loss == "ce_transposed" else (outputs, y)


def channels_last(program: Program, outputs: NDArray[Any]) -> NDArray[Any]:
    """Return outputs with channels last if they are images."""
    return np.moveaxis(outputs, 1, -1) if _gives_images(program) else outputs


def _optimized(program: Program, model: nn.Sequential, data: Arrays) -> list[nn.Parameter]:
    """Return the parameters for the optimizer, faulty or not."""
    weighted = [layer for layer in model if any(True for _ in layer.parameters())]
    if program.loop.get("optimized") == "stale":  # as if all but the last layer had been replaced afterwards
        last = list(weighted[-1].parameters())
        return [*list(build(program, data.x_train.shape[1:]).parameters())[: -len(last)], *last]
    return list(
        {
            "all": model,
            "first": weighted[0],
            "last": weighted[-1],
            # As if the model had been rebuilt after the optimizer was created
            "none": build(program, data.x_train.shape[1:]) if program.loop.get("optimized") == "none" else model,
        }[program.loop.get("optimized", "all")].parameters()
    )
