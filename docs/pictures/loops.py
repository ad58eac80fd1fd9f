"""Faulty and healthy runs: what a loop does from step to step, from part to part, and in several processes."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - only make_pictures.py imports this file
from torch import nn  # noqa: TID253
from torch.optim import lr_scheduler  # noqa: TID253

import autotrainer
from autotrainer.api.replay import recorded_run
from pictures.curves import by_layer, epochs, scalar
from pictures.parts import Data, adam, mlp, rows, sgd, uncertain
from pictures.run import Loop, Picture, Run, Trained

__all__ = ["ACCUMULATED", "DROPPED", "LOOPS"]

DROPPED = Run(model=lambda: mlp(dropout=0.6), data=uncertain, validation=uncertain, optimizer=adam)
ACCUMULATED = Run(
    data=uncertain,
    optimizer=lambda m: sgd(m, 1.0),
    validation=uncertain,
    batch_size=64,
    epochs=10,
    loop=Loop(accumulated=16),
)


def _recreated(every: float) -> Trained:
    """Return a training whose optimizer is created anew every so many steps."""
    torch.manual_seed(0)
    data, model = rows(), mlp()
    make = partial(torch.optim.SGD, list(model.parameters()), 0.01, momentum=0.9)
    return _trained(model, data, 5, make(), lambda step, optimizer: make() if step % every == every - 1 else optimizer)


def _trained(
    model: nn.Module,
    data: Data,
    epochs: int,
    optimizer: torch.optim.Optimizer,
    renew: Callable[[int, torch.optim.Optimizer], torch.optim.Optimizer] = lambda step, optimizer: optimizer,
    **options: Any,
) -> Trained:
    """Return a training by a plain loop, before each step of which the optimizer may be renewed."""
    (x, y), loss_fn, losses = data, nn.BCEWithLogitsLoss(), list[float]()
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=epochs, **options) as monitor:
        for _ in range(epochs):
            for chosen in torch.randperm(len(x)).split(32):
                optimizer = renew(len(losses), optimizer)
                optimizer.zero_grad()
                value = loss_fn(model(x[chosen]), y[chosen])
                value.backward()
                optimizer.step()
                losses.append(value.item())
            monitor.end_epoch()
    return Trained(monitor.history, monitor.context, monitor.findings, (range(len(losses)), losses))


class _Swish(torch.autograd.Function):
    """x · sigmoid(x), with a backward pass of a given sign."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sign: int) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.sign = sign
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return ctx.sign * gradient * (s + x * s * (1 - s)), None


class _Activation(nn.Module):
    def __init__(self, sign: int) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = _Swish.apply(x, self.sign)
        return y


def _with_function(sign: int) -> Trained:
    """Return a training with an activation of its own, whose gradient has this sign."""
    torch.manual_seed(0)
    data, model = rows(), mlp(activation=lambda: _Activation(sign), depth=2)
    return _trained(model, data, 10, sgd(model, 0.1), probe=True)


def _resumed(*, schedule: bool) -> Trained:
    """Return the second part of a training of two, with or without the state of its scheduler."""
    torch.manual_seed(0)
    x, y = uncertain()
    first, second = (_parts() for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        _part(first, x, y, range(100), folder)
        for old, new in zip(first[: 3 if schedule else 2], second, strict=False):
            new.load_state_dict(copy.deepcopy(old.state_dict()))
        if not schedule:
            for group in second[1].param_groups:
                group["lr"] = 0.1
        monitor = _part(second, x, y, range(100, 160), folder)
        assert monitor.log_path is not None
        return Trained(*recorded_run(monitor.log_path), monitor.findings)


def _parts() -> tuple[nn.Module, torch.optim.Optimizer, lr_scheduler.LRScheduler]:
    model = mlp()
    optimizer = adam(model, 0.1)
    return model, optimizer, lr_scheduler.CosineAnnealingLR(optimizer, 160)


def _part(
    parts: tuple[nn.Module, torch.optim.Optimizer, lr_scheduler.LRScheduler],
    x: torch.Tensor,
    y: torch.Tensor,
    steps: range,
    folder: str,
) -> autotrainer.Monitor:
    model, optimizer, schedule = parts
    loss = nn.BCEWithLogitsLoss()
    order = torch.from_numpy(np.random.default_rng(1).permutation(512))
    with autotrainer.watch(model, optimizer, loss_fn=loss, steps=160, overhead=1.0, log_dir=folder) as monitor:
        for number in steps:
            chosen = order[number * 16 % 512 :][:16]
            optimizer.zero_grad()
            loss(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
            schedule.step()
    return monitor


def _replicas(*, averaged: bool) -> Trained:
    """Return a training of two replicas, whose gradients may be averaged; the points are how far apart they are."""
    torch.manual_seed(0)
    x, y = rows()
    first = mlp()
    models = first, copy.deepcopy(first)
    optimizers, loss = [adam(model) for model in models], [nn.BCEWithLogitsLoss() for _ in models]
    apart = []
    with tempfile.TemporaryDirectory() as folder:
        with ExitStack() as stack:
            for number, model in enumerate(models):
                stack.enter_context(
                    autotrainer.watch(
                        model, optimizers[number], loss_fn=loss[number], epochs=10, overhead=1.0,
                        log_dir=f"{folder}/{number}",
                    )
                )  # fmt: skip
            for _ in range(10):
                for chosen in torch.randperm(512).split(64):
                    for number, model in enumerate(models):
                        optimizers[number].zero_grad()
                        half = chosen[number::2]
                        loss[number](model(x[half]), y[half]).backward()
                    if averaged:
                        for pair in zip(*(model.parameters() for model in models), strict=True):
                            mean = torch.stack([p.grad for p in pair if p.grad is not None]).mean(0)
                            for parameter in pair:
                                parameter.grad = mean.clone()
                    for optimizer in optimizers:
                        optimizer.step()
                    apart.append(float((models[0][0].weight - models[1][0].weight).norm()))  # type: ignore[operator,union-attr]
        logs = [next(Path(f"{folder}/{number}").glob("*.jsonl")) for number in range(2)]
        found = autotrainer.replay(logs[0], replicas=logs[1:]).findings
        return Trained(*recorded_run(logs[0]), found, (range(len(apart)), apart))


LOOPS: Mapping[str, Picture] = {
    "parameters_not_optimized": Picture(
        "The optimizer has the last layer only, and all layers: changes of weights in step 20.",
        Run(model=lambda: mlp(depth=3), optimizer=lambda m: sgd(m[-1], 0.1)),  # type: ignore[index]
        Run(model=lambda: mlp(depth=3)), by_layer("update_ratio", 20), ("layer", "change ÷ weight"),
    ),
    "missing_zero_grad": Picture(
        "Without and with zero_grad.", Run(loop=Loop(zero_grad=False)), curve=scalar("grad_norm"),
        axes=("step", "gradient norm"), log=True,
    ),
    "recreated_optimizer": Picture(
        "SGD with a momentum of 0.9, created anew in each step, and created once.",
        lambda: _recreated(1), lambda: _recreated(math.inf),
    ),
    "wrong_backward": Picture(
        "A custom activation whose backward pass has the wrong sign, and one with the right sign.",
        partial(_with_function, -1), partial(_with_function, 1), log=True,
    ),
    "wrong_training_mode": Picture(
        "Dropout of 60% that is in force in evaluations, too, and one that is not.",
        DROPPED.but(loop=Loop(evaluates=False)), DROPPED, epochs("val_loss"), ("epoch", "validation loss"),
    ),
    "wrong_accumulation": Picture(
        "Gradients of 16 batches, added up and averaged.",
        ACCUMULATED.but(loop=Loop(accumulated=16, divided=False)), ACCUMULATED,
        epochs("val_loss"), ("epoch", "validation loss"), log=True,
    ),
    "bad_resume": Picture(
        "A training that goes on from step 100, with a new schedule of the learning rate and with its own.",
        partial(_resumed, schedule=False), partial(_resumed, schedule=True),
        scalar("learning_rate"), ("step since then", "learning rate"),
    ),
    "replica_desync": Picture(
        "Two replicas that train on their own rows, without and with averaged gradients.",
        partial(_replicas, averaged=False), partial(_replicas, averaged=True),
        axes=("step", "distance of their weights"),
    ),
}  # fmt: skip
