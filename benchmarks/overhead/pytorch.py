"""The timed training in PyTorch, plain or with one setting of `benchmarks.overhead.settings`."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import autotrainer
from benchmarks.overhead.models import pytorch_model
from benchmarks.overhead.settings import CONTROL, WATCH, Attached, Block, offline_run, options_of

__all__ = ["PytorchTraining"]


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of one training."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    loss_fn: nn.Module
    inputs: Tensor
    targets: Tensor
    folder: Path

    def backward(self) -> Tensor:
        """Compute the gradients; return the loss."""
        self.optimizer.zero_grad()
        loss: Tensor = self.loss_fn(self.network(self.inputs), self.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def step(self) -> None:
        """Take a plain step."""
        self.backward()
        self.optimizer.step()


class PytorchTraining:
    """One model, trained on one batch repeatedly.

    Args:
        model: A name that `pytorch_model` accepts.
        x: Inputs of the batch.
        y: Classes of the batch.
        setting: The setting that `attach` applies.
        folder: Where the setting may write.
    """

    def __init__(self, model: str, x: NDArray[Any], y: NDArray[Any], setting: str, folder: Path) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        network = pytorch_model(model)
        optimizer = torch.optim.Adam(network.parameters(), 1e-4)
        inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
        self._parts = Parts(network, optimizer, nn.CrossEntropyLoss(), inputs, targets, folder)
        self._setting = setting
        self._attached = Attached(step=self._parts.step)
        self.network = network
        self.parameters = sum(p.nbytes for p in network.parameters())

    def attach(self) -> None:
        """Apply the setting to the training."""
        if self._setting in WATCH:
            self._attached = _watched(self._setting, self._parts)
        elif self._setting != CONTROL:
            self._attached = _ALTERNATIVES[self._setting](self._parts)

    def block(self, steps: int) -> Block:
        """Train that many steps."""
        step, end_block = self._attached.step, self._attached.end_block
        assert step is not None
        seconds, processor = [], time.process_time()
        for _ in range(steps):
            begun = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - begun)
        if end_block is not None:
            end_block()
        return seconds, time.process_time() - processor

    def close(self) -> None:
        """Remove the setting."""
        if self._attached.close is not None:
            self._attached.close()


def _watched(setting: str, parts: Parts) -> Attached:
    options = options_of(setting, parts.folder)
    monitor = autotrainer.watch(parts.network, parts.optimizer, loss_fn=parts.loss_fn, **options)
    end = monitor.end_epoch if setting == "epochs" else None
    return Attached(step=parts.step, end_block=end, close=monitor.close)


def _norm_loop(parts: Parts) -> Attached:
    parameters, norms = list(parts.network.parameters()), [0.0]

    def step() -> None:
        parts.backward()
        total = 0.0
        for parameter in parameters:
            if parameter.grad is not None:
                total += parameter.grad.norm().item() ** 2
        norms[0] = math.sqrt(total)
        parts.optimizer.step()

    return Attached(step=step)


def _detect_anomaly(parts: Parts) -> Attached:
    def step() -> None:
        with torch.autograd.set_detect_anomaly(True):
            parts.step()

    return Attached(step=step)


def _lightning(parts: Parts) -> Attached:
    grad_norm = import_module("lightning.pytorch.utilities").grad_norm

    def step() -> None:
        parts.backward()
        grad_norm(parts.network, norm_type=2)
        parts.optimizer.step()

    return Attached(step=step)


def _wandb(parts: Parts) -> Attached:
    run = offline_run(parts.folder)
    run.watch(parts.network)

    def step() -> None:
        loss = parts.backward()
        parts.optimizer.step()
        run.log({"loss": loss.item()})

    return Attached(step=step, close=run.finish)


def _torchmortem(parts: Parts) -> Attached:
    autopsy = import_module("torchmortem").Autopsy(parts.network, optimizer=parts.optimizer)
    autopsy.attach()

    def step() -> None:
        loss = parts.backward()
        parts.optimizer.step()
        autopsy.step(loss=loss.item())

    return Attached(step=step, close=autopsy.detach)


def _torch_audit(parts: Parts) -> Attached:
    auditor = import_module("torch_audit").autopatch(parts.network, optimizer=parts.optimizer)
    return Attached(step=parts.step, close=auditor.unpatch)


def _torchdiag(parts: Parts) -> Attached:
    check_gradients = import_module("torchdiag").check_gradients
    devnull = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - closed with the setting

    def step() -> None:
        parts.backward()
        with contextlib.redirect_stdout(devnull):  # it prints
            check_gradients(parts.network)
        parts.optimizer.step()

    return Attached(step=step, close=devnull.close)


_ALTERNATIVES: Mapping[str, Callable[[Parts], Attached]] = {
    "norm_loop": _norm_loop,
    "detect_anomaly": _detect_anomaly,
    "lightning": _lightning,
    "wandb": _wandb,
    "torchmortem": _torchmortem,
    "torch_audit": _torch_audit,
    "torchdiag": _torchdiag,
}
