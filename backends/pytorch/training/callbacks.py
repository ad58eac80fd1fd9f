"""Callbacks that edits add to a training: they run before and after steps and at the end of epochs."""

from __future__ import annotations

import copy
import math
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.edits import DecayRate, ResetOptimizerState, Rollback, SkipUpdates, WarmUpRate

__all__ = [
    "ModeCallback",
    "RateCallback",
    "RollbackCallback",
    "SkipUpdatesCallback",
    "StateResetCallback",
    "TrainingCallback",
    "ZeroGradCallback",
    "gradient_norm",
]


class TrainingCallback:
    """Callback of one training; does nothing unless a subclass overrides a method."""

    def begin_epoch(self, epoch: int) -> None:
        """Run at the beginning of an epoch."""

    def after_backward(self, loss: Tensor) -> None:
        """Run after the backward pass of a step, before gradients are clipped."""

    def before_step(self) -> bool:
        """Run before an optimizer step; return whether to take the step."""
        return True

    def after_step(self) -> None:
        """Run after a step that was taken or skipped."""

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Run at the end of an epoch with this mean loss, before the evaluation."""

    def close(self) -> None:
        """Remove everything that was attached."""


class RateCallback(TrainingCallback):
    """Warm-up and decay of the learning rate, step by step. Between steps the optimizer has its base rate.

    Args:
        optimizer: The optimizer.
        warm_up: The warm-up, or None.
        decay: The decay, with its number of steps, or None.
    """

    def __init__(self, optimizer: Optimizer, warm_up: WarmUpRate | None, decay: DecayRate | None) -> None:
        self._optimizer, self._warm_up, self._decay = optimizer, warm_up, decay
        self._step = 0
        self._rates: list[Any] = []

    def factor(self, step: int) -> float:
        """Return the rate of a step ÷ the base rate."""
        warm_up_steps = 0 if self._warm_up is None else self._warm_up.steps
        if step < warm_up_steps:
            return (step + 1) / warm_up_steps
        if self._decay is None:
            return 1.0
        progress = min(1.0, (step - warm_up_steps) / max(1, self._decay.steps - warm_up_steps))
        return self._decay.floor + (1 - self._decay.floor) * (1 + math.cos(math.pi * progress)) / 2

    def before_step(self) -> bool:
        """Set the rate of this step."""
        groups = self._optimizer.param_groups
        self._rates = [copy.copy(group["lr"]) for group in groups]
        for group in groups:
            group["lr"] = group["lr"] * self.factor(self._step)
        return True

    def after_step(self) -> None:
        """Restore the base rate, which a scheduler may change."""
        self._step += 1
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate


class SkipUpdatesCallback(TrainingCallback):
    """Skips steps whose gradient is not finite or far above the previous ones; see `SkipUpdates`."""

    def __init__(self, model: nn.Module, edit: SkipUpdates) -> None:
        self._model, self._edit = model, edit
        self._norms: deque[float] = deque(maxlen=edit.window)
        self._allowed = True
        self._buffers = self._copies()

    def after_backward(self, loss: Tensor) -> None:
        """Compare the norm with the recent ones, and add it to them, so that lasting growth is allowed."""
        norm = float(gradient_norm(self._model))
        self._allowed = math.isfinite(norm) and not self._exceeds(norm)
        if math.isfinite(norm):
            self._norms.append(norm)

    def before_step(self) -> bool:
        """Allow the step or not; after a skipped step, non-finite running statistics are restored."""
        if self._allowed:
            self._buffers = self._copies()
        else:
            for buffer, values in zip(self._model.buffers(), self._buffers, strict=True):
                if not bool(torch.isfinite(buffer).all()):
                    buffer.copy_(values)
        return self._allowed

    def _exceeds(self, norm: float) -> bool:
        if len(self._norms) < self._edit.window / 2:
            return False
        recent = torch.tensor(list(self._norms), dtype=torch.float64)
        return norm > float(recent.mean() + self._edit.deviations * recent.std())

    def _copies(self) -> list[Tensor]:
        return [buffer.detach().clone() for buffer in self._model.buffers()]


class RollbackCallback(TrainingCallback):
    """Rolls back to the best epoch when the training loss has deteriorated; see `Rollback`."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, edit: Rollback) -> None:
        self._model, self._optimizer, self._edit = model, optimizer, edit
        self._first = self._best = math.nan
        self._loss_nonfinite = False
        self._best_state = self._state()

    def after_backward(self, loss: Tensor) -> None:
        """Check whether the loss is finite: all later steps would be lost."""
        self._loss_nonfinite = not math.isfinite(float(loss))

    def before_step(self) -> bool:
        """Roll back instead of taking a step with a non-finite loss."""
        if self._loss_nonfinite:
            self._roll_back()
        return not self._loss_nonfinite

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Keep the state of a good epoch; roll back after a bad one."""
        if math.isnan(self._first) and math.isfinite(loss):
            self._first = self._best = loss
        if self._edit.is_setback(loss, best=self._best, first=self._first):
            self._roll_back()
        elif loss <= self._best:
            self._best, self._best_state = loss, self._state()

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        host = {k: v.detach().to("cpu", copy=True) for k, v in self._model.state_dict().items()}
        return host, copy.deepcopy(self._optimizer.state_dict())

    def _roll_back(self) -> None:
        weights, state = self._best_state
        rates = [float(group["lr"]) * self._edit.shrink for group in self._optimizer.param_groups]
        self._model.load_state_dict(weights)
        self._optimizer.load_state_dict(copy.deepcopy(state))
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = torch.full_like(group["lr"], rate) if isinstance(group["lr"], Tensor) else rate


class StateResetCallback(TrainingCallback):
    """Clears the optimizer's state; see `ResetOptimizerState`."""

    def __init__(self, optimizer: Optimizer, edit: ResetOptimizerState) -> None:
        self._optimizer, self._every = optimizer, edit.every

    def begin_epoch(self, epoch: int) -> None:
        """Clear the state in the first epoch, or every so many epochs if the edit says so."""
        if epoch % self._every == 0 if self._every else epoch == 0:
            self._optimizer.state.clear()


class ZeroGradCallback(TrainingCallback):
    """Zeroes the gradients after each step of a loop that lacks ``zero_grad``; see `RestoreZeroGrad`."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    def after_step(self) -> None:
        """Zero the gradients."""
        self._optimizer.zero_grad()


class ModeCallback(TrainingCallback):
    """Sets the model's mode before each forward pass by whether gradients are enabled; see `SetMode`."""

    def __init__(self, model: nn.Module) -> None:
        self._handle = model.register_forward_pre_hook(_set_mode)

    def close(self) -> None:
        """Remove the hook."""
        self._handle.remove()


def _set_mode(model: nn.Module, args: Any) -> None:
    if model.training is not torch.is_grad_enabled():
        model.train(torch.is_grad_enabled())


def gradient_norm(model: nn.Module) -> Tensor:
    """Return the L2 norm of all gradients; 0 if there are none."""
    norms = []
    for parameter in model.parameters():
        if parameter.grad is not None:
            values = parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
            norms.append(torch.linalg.vector_norm(values.detach(), dtype=torch.float32).cpu())
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
