"""Objects that a repair has replaced: using them raises an error."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.adapter.spec import LoopObjects
from autotrainer.errors import StateError

__all__ = ["StaleObjects"]


class StaleObjects:
    """Makes a model, an optimizer and a loss raise `StateError` when they are used, until `release`.

    So does a scheduler of the optimizer, which would no longer have an effect; the loss may still be used to evaluate.

    Args:
        objects: The objects.
    """

    def __init__(self, objects: LoopObjects) -> None:
        optimizer: Optimizer = objects.optimizer
        loss: nn.Module = objects.loss_fn
        self._optimizer, self._groups = optimizer, optimizer.param_groups
        self._guards: list[dict[str, Any]] = [_Guard(group) for group in self._groups]
        self._handles = [
            optimizer.register_step_pre_hook(_stepped),
            objects.model.register_forward_pre_hook(_called),
            loss.register_forward_hook(_trained_on),
        ]
        optimizer.param_groups = self._guards

    def release(self) -> None:
        """Allow their use again."""
        for handle in self._handles:
            handle.remove()
        if self._optimizer.param_groups is self._guards:
            self._optimizer.param_groups = self._groups


class _Guard(dict[str, Any]):
    """A parameter group whose settings can't be changed."""

    def __setitem__(self, name: str, value: Any) -> NoReturn:
        raise StateError(
            f"{name!r} was set in an optimizer that a repair has replaced: set it in loop.optimizer, and give a "
            "scheduler to Loop(scheduler=...) and step loop.scheduler, which are always those in use"
        )


def _stepped(*_: Any) -> NoReturn:
    raise StateError("this optimizer was replaced by a repair: step loop.optimizer, which is always the one in use")


def _called(*_: Any) -> NoReturn:
    raise StateError("this model was replaced by a repair: call loop.model, which is always the one in use")


def _trained_on(module: nn.Module, args: Any, loss: Any) -> None:
    if isinstance(loss, Tensor) and loss.requires_grad:
        raise StateError("this loss was replaced by a repair: call loop.loss_fn, which is always the one in use")
