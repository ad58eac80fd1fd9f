"""Companions of a training in the user's own loop: they have their say through hooks of loss and optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.backends.pytorch.training.callbacks import TrainingCallback

__all__ = ["CallbackHooks", "Emptying"]


class Emptying(TrainingCallback):
    """Empties the gradients after each step: what a loop without ``zero_grad`` has forgotten; see `RestoreZeroGrad`."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    def after_step(self) -> None:
        """Empty them."""
        self._optimizer.zero_grad()


class CallbackHooks:
    """Lets companions go along with a training that the user's own loop runs.

    A step that a companion does not let through is taken without gradients: optimizers leave such parameters alone.

    Args:
        optimizer: The optimizer, whose steps are hooked.
        loss: The loss module, whose last training loss companions see.
        companions: The companions, in the order in which they have their say.
    """

    def __init__(self, optimizer: Optimizer, loss: nn.Module, companions: Sequence[TrainingCallback]) -> None:
        self._optimizer, self._companions = optimizer, tuple(companions)
        self._loss = torch.zeros(())
        self._total, self._count = torch.zeros(()), 0
        self._handles = [
            loss.register_forward_hook(self._see),
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def begin_epoch(self, epoch: int) -> None:
        """Say that an epoch begins."""
        self._total, self._count = torch.zeros(()), 0
        for companion in self._companions:
            companion.begin_epoch(epoch)

    def end_epoch(self, epoch: int) -> None:
        """Say that an epoch has ended, before the user's loop evaluates it."""
        loss = float(self._total) / self._count if self._count else float("nan")
        for companion in self._companions:
            companion.end_epoch(epoch, loss)

    def remove(self) -> None:
        """Take every hook off."""
        for handle in self._handles:
            handle.remove()
        for companion in self._companions:
            companion.close()

    def _see(self, module: nn.Module, args: Any, loss: Any) -> None:
        if isinstance(loss, Tensor) and loss.requires_grad:
            self._loss = loss.detach().mean()
            self._total, self._count = self._total.to(self._loss) + self._loss, self._count + 1

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._prepare()
            return None

        def prepared() -> Any:
            loss = closure()
            self._prepare()
            return loss

        return args[:1], {**kwargs, "closure": prepared}

    def _prepare(self) -> None:
        for companion in self._companions:
            companion.after_backward(self._loss)
        allowed = [companion.before_step() for companion in self._companions]  # each has its say
        if not all(allowed):
            for group in self._optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def _after(self, *_: Any) -> None:
        for companion in self._companions:
            companion.after_step()
