"""The objects of a training: whether they belong together, and whether others train beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from autotrainer.backends.pytorch.optim.optimizers import owns
from autotrainer.errors import InputError
from autotrainer.monitoring.monitor import watched_models

__all__ = ["OtherTrainings", "check_objects"]


def check_objects(model: Any, optimizer: Any, loss_fn: Any) -> tuple[Optimizer, ...]:
    """Return the optimizers.

    Raises:
        InputError: If the objects have the wrong type or do not belong together.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if optimizer is None:
        raise InputError("the optimizer is missing: watch(model, optimizer, ...) counts its steps")
    optimizers = tuple(optimizer) if isinstance(optimizer, Sequence | set) else (optimizer,)
    if not optimizers:
        raise InputError("optimizer is an empty sequence: give at least one torch.optim.Optimizer")
    for one in optimizers:
        if not isinstance(one, Optimizer):
            own = hasattr(one, "step") and hasattr(one, "param_groups")
            mend = ": its steps can't be observed; pass the one inside it, or derive it from torch.optim.Optimizer"
            kind = type(one).__name__
            raise InputError(f"optimizer must be a torch.optim.Optimizer or several, not {kind}{mend if own else ''}")
        if not owns(one, model):
            raise InputError(
                f"{type(one).__name__} owns none of the parameters of {type(model).__name__}: "
                "build it from model.parameters() of the model that is watched"
            )
    if loss_fn is not None and not callable(loss_fn):
        raise InputError(f"loss_fn must be a loss module, a callable or None, not {type(loss_fn).__name__}")
    return optimizers


class OtherTrainings:
    """The trainings of other watched models, such as that of the other network of a GAN.

    Args:
        model: The model of this one.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._steps: dict[int, int] = {}  # at the latest sample, by monitor

    def have_stepped(self) -> bool:
        """Return whether any of them has taken steps since the latest call."""
        before = self._steps
        self._steps = {
            id(monitor): monitor.history.step
            for model, monitor in watched_models.items()
            if model is not self._model and not monitor.closed
        }
        return any(before.get(key, step) < step for key, step in self._steps.items())
