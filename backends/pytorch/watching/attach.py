"""Attaches to a PyTorch training: checks and describes its objects, and has them watched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from autotrainer.adapter.observer import Recorder
from autotrainer.backends.pytorch.model.describe import (
    layer_info,
    layers,
    names_checkpoint,
    optimizer_info,
    watched_modules,
)
from autotrainer.backends.pytorch.model.dropout import largest_dropout_rate
from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.backends.pytorch.optim.parameter_ownership import ParameterOwnership
from autotrainer.backends.pytorch.runtime.observation import paused_collector
from autotrainer.backends.pytorch.watching.observer import TorchObserver
from autotrainer.backends.pytorch.watching.watched_objects import check_objects
from autotrainer.records.task import TaskContext

__all__ = ["observe"]


def observe(
    model: nn.Module,
    optimizer: Any,
    loss_fn: Any,
    monitor: Recorder,
    *,
    epochs: int | None = None,
    steps: int | None = None,
) -> TorchObserver:
    """Attach to a training.

    Args:
        model: The model.
        optimizer: Optimizer, or a sequence of optimizers: a step is one step of the first.
        loss_fn: Loss module, which is hooked; or a function or None, where `Monitor.log` reports the loss.
        monitor: Receives the observations.
        epochs: Planned epochs, or None.
        steps: Planned steps, or None.

    Returns:
        The attached observer.

    Raises:
        InputError: If the objects have the wrong type or do not belong together.
    """
    optimizers = check_objects(model, optimizer, loss_fn)
    stopwatch = monitor.sampler.stopwatch
    before = stopwatch.work, stopwatch.wall
    with stopwatch, paused_collector():
        observer = _made(model, optimizers, loss_fn, monitor, epochs, steps)
    observer.expect_cost(stopwatch.work - before[0], stopwatch.wall - before[1])
    with stopwatch, paused_collector():
        observer.attach()
    return observer


def _made(
    model: nn.Module,
    optimizers: tuple[Optimizer, ...],
    loss_fn: Any,
    monitor: Recorder,
    epochs: int | None,
    steps: int | None,
) -> TorchObserver:
    modules = watched_modules(model)
    infos = [layer_info(name, module) for name, module in modules.items()]
    context = TaskContext(
        framework="pytorch",
        checkpoint=names_checkpoint(model),
        engine="pytorch",
        loss=loss_info(loss_fn),
        optimizer=replace(optimizer_info(optimizers[0]), several=len(optimizers) > 1),
        layers=ParameterOwnership(model, optimizers, modules).annotate(layers(model, modules, infos)),
        dropout=largest_dropout_rate(model),
        planned_epochs=epochs,
        planned_steps=steps,
    )
    monitor.begin(context)
    return TorchObserver(model, optimizers, loss_fn, monitor, context, modules, infos)
