"""What edits add to the training loop: each companion has its say before and after steps and at the end of epochs."""

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
    "gradient_norm",
]

_GAINED = 0.1
"""Share of what the loss has fallen by that always counts as noise: near zero a loss doubles without harm."""


class TrainingCallback:
    """Goes along with one training; does nothing unless a subclass says so."""

    def begin_epoch(self, epoch: int) -> None:
        """Take note that an epoch begins."""

    def after_backward(self, loss: Tensor) -> None:
        """Look at the gradients of a step, before they are clipped."""

    def before_step(self) -> bool:
        """Prepare a step of the optimizer, and say whether it is to be taken."""
        return True

    def after_step(self) -> None:
        """Clean up after a step that was taken or left out."""

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Act at the end of an epoch with this mean loss, before it is evaluated."""

    def close(self) -> None:
        """Leave nothing behind."""


class RateCallback(TrainingCallback):
    """Takes each step at a rate of its own: warm-up and decay. In between the optimizer has the rate set.

    Args:
        optimizer: The optimizer.
        warm_up: How the rate rises, or None.
        decay: How it falls, with its steps, or None.
    """

    def __init__(self, optimizer: Optimizer, warm_up: WarmUpRate | None, decay: DecayRate | None) -> None:
        self._optimizer, self._warm_up, self._decay = optimizer, warm_up, decay
        self._step = 0
        self._rates: list[Any] = []

    def factor(self, step: int) -> float:
        """Return the rate of a step ÷ the rate set."""
        rising = 0 if self._warm_up is None else self._warm_up.steps
        if step < rising:
            return (step + 1) / rising
        if self._decay is None:
            return 1.0
        done = min(1.0, (step - rising) / max(1, self._decay.steps - rising))
        return self._decay.floor + (1 - self._decay.floor) * (1 + math.cos(math.pi * done)) / 2

    def before_step(self) -> bool:
        """Set the rate of this step."""
        groups = self._optimizer.param_groups
        self._rates = [copy.copy(group["lr"]) for group in groups]
        for group in groups:
            group["lr"] = group["lr"] * self.factor(self._step)
        return True

    def after_step(self) -> None:
        """Put the rate set back, which a scheduler may change."""
        self._step += 1
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate


class SkipUpdatesCallback(TrainingCallback):
    """Leaves out steps whose gradient is not finite or far above those before; see `SkipUpdates`."""

    def __init__(self, model: nn.Module, edit: SkipUpdates) -> None:
        self._model, self._edit = model, edit
        self._norms: deque[float] = deque(maxlen=edit.window)
        self._fine = True
        self._buffers = self._copies()

    def after_backward(self, loss: Tensor) -> None:
        """Compare the norm with the last ones. It counts itself from then on, so that lasting growth is let through."""
        norm = float(gradient_norm(self._model))
        self._fine = math.isfinite(norm) and not self._exceeds(norm)
        if math.isfinite(norm):
            self._norms.append(norm)

    def before_step(self) -> bool:
        """Let a step through or not; one that is left out leaves no running statistics that are not finite."""
        if self._fine:
            self._buffers = self._copies()
        else:
            for buffer, kept in zip(self._model.buffers(), self._buffers, strict=True):
                if not bool(torch.isfinite(buffer).all()):
                    buffer.copy_(kept)
        return self._fine

    def _exceeds(self, norm: float) -> bool:
        if len(self._norms) < self._edit.window / 2:
            return False
        last = torch.tensor(list(self._norms), dtype=torch.float64)
        return norm > float(last.mean() + self._edit.deviations * last.std())

    def _copies(self) -> list[Tensor]:
        return [buffer.detach().clone() for buffer in self._model.buffers()]


class RollbackCallback(TrainingCallback):
    """Goes back to the best epoch where the training loss has gone bad; see `Rollback`."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, edit: Rollback) -> None:
        self._model, self._optimizer, self._edit = model, optimizer, edit
        self._first = self._best = math.nan
        self._broken = False
        self._kept = self._state()

    def after_backward(self, loss: Tensor) -> None:
        """See a loss that is not finite at once: all steps after it would be lost."""
        self._broken = not math.isfinite(float(loss))

    def before_step(self) -> bool:
        """Go back in place of a step that would poison the weights."""
        if self._broken:
            self._go_back()
        return not self._broken

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Keep a good epoch, leave a bad one."""
        if math.isnan(self._first) and math.isfinite(loss):
            self._first = self._best = loss
        if self._is_bad(loss):
            self._go_back()
        elif loss <= self._best:
            self._best, self._kept = loss, self._state()

    def _is_bad(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return True
        room = max((self._edit.limit - 1) * abs(self._best), _GAINED * (self._first - self._best))
        return loss - self._best > room

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        host = {k: v.detach().to("cpu", copy=True) for k, v in self._model.state_dict().items()}
        return host, copy.deepcopy(self._optimizer.state_dict())

    def _go_back(self) -> None:
        weights, state = self._kept
        rates = [float(group["lr"]) * self._edit.shrink for group in self._optimizer.param_groups]
        self._model.load_state_dict(weights)
        self._optimizer.load_state_dict(copy.deepcopy(state))
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = torch.full_like(group["lr"], rate) if isinstance(group["lr"], Tensor) else rate


class StateResetCallback(TrainingCallback):
    """Makes the optimizer forget; see `ResetOptimizerState`."""

    def __init__(self, optimizer: Optimizer, edit: ResetOptimizerState) -> None:
        self._optimizer, self._every = optimizer, edit.every

    def begin_epoch(self, epoch: int) -> None:
        """Clear the state at the start, and again in the rhythm that the edit says."""
        if epoch % self._every == 0 if self._every else epoch == 0:
            self._optimizer.state.clear()


class ModeCallback(TrainingCallback):
    """Sets the model's mode before each of its passes, whatever code runs it; see `SetMode`."""

    def __init__(self, model: nn.Module) -> None:
        self._handle = model.register_forward_pre_hook(_follow)

    def close(self) -> None:
        """Leave the model to its user."""
        self._handle.remove()


def _follow(model: nn.Module, args: Any) -> None:
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
