"""Runs callbacks in the user's own training loop, through hooks on loss and optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.backends.pytorch.training.callbacks import TrainingCallback

__all__ = ["CallbackHooks"]


class CallbackHooks:
    """Runs callbacks in a training of the user's own loop.

    A step that a callback does not allow is taken without gradients: optimizers skip such parameters.

    Args:
        optimizer: The optimizer, whose steps are hooked.
        loss: The loss module; callbacks receive its latest training loss.
        callbacks: The callbacks, in the order in which they run.
    """

    def __init__(self, optimizer: Optimizer, loss: nn.Module, callbacks: Sequence[TrainingCallback]) -> None:
        self._optimizer, self._callbacks = optimizer, tuple(callbacks)
        self._loss = torch.zeros(())
        self._total, self._count = torch.zeros(()), 0
        self._handles = [
            loss.register_forward_hook(self._record_loss),
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def begin_epoch(self, epoch: int) -> None:
        """Run the callbacks at the beginning of an epoch."""
        self._total, self._count = torch.zeros(()), 0
        for callback in self._callbacks:
            callback.begin_epoch(epoch)

    def end_epoch(self, epoch: int) -> None:
        """Run the callbacks at the end of an epoch, before the user's loop evaluates it."""
        loss = float(self._total) / self._count if self._count else float("nan")
        for callback in self._callbacks:
            callback.end_epoch(epoch, loss)

    def remove(self) -> None:
        """Remove every hook, and close the callbacks."""
        for handle in self._handles:
            handle.remove()
        for callback in self._callbacks:
            callback.close()

    def _record_loss(self, module: nn.Module, args: Any, loss: Any) -> None:
        if isinstance(loss, Tensor) and loss.requires_grad:
            self._loss = loss.detach().mean()
            self._total, self._count = self._total.to(self._loss) + self._loss, self._count + 1

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._prepare_step()
            return None

        def closure_with_callbacks() -> Any:
            loss = closure()
            self._prepare_step()
            return loss

        return args[:1], {**kwargs, "closure": closure_with_callbacks}

    def _prepare_step(self) -> None:
        for callback in self._callbacks:
            callback.after_backward(self._loss)
        allowed = [callback.before_step() for callback in self._callbacks]  # every callback runs
        if not all(allowed):
            for group in self._optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def _after(self, *_: Any) -> None:
        for callback in self._callbacks:
            callback.after_step()
