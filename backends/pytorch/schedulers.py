"""The user's learning-rate scheduler, for each training anew."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from autotrainer.errors import ConfigError, InputError

__all__ = ["scheduler_maker", "step_scheduler"]


def step_scheduler(scheduler: Any, loss: float) -> None:
    """Step a scheduler at the end of an epoch; None does nothing."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(loss)
    elif scheduler is not None:
        scheduler.step()


def scheduler_maker(scheduler: Any, optimizer: Optimizer) -> Callable[[Optimizer], Any] | None:
    """Return what makes such a scheduler for another optimizer.

    Args:
        scheduler: Scheduler of the optimizer, in the state in which trainings start; callable(optimizer) that makes
            one; or None.
        optimizer: The optimizer as given.

    Returns:
        callable(optimizer), or None.

    Raises:
        InputError: If it is neither, or belongs to another optimizer.
    """
    if scheduler is None:
        return None
    if not hasattr(scheduler, "step"):
        if not callable(scheduler):
            raise InputError(f"scheduler must be a scheduler or callable(optimizer), not {type(scheduler).__name__}")
        return scheduler  # type: ignore[no-any-return]
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise InputError("the scheduler belongs to another optimizer than the one given")
    kind: type[Any] = type(scheduler)
    state = copy.deepcopy({k: v for k, v in vars(scheduler).items() if k != "optimizer"})
    rates = [(float(group["lr"]), float(group.get("initial_lr", group["lr"]))) for group in optimizer.param_groups]

    def make(other: Optimizer) -> Any:
        if len(other.param_groups) != len(rates):
            raise ConfigError(
                f"the {kind.__name__} given was made for {len(rates)} parameter groups, and this repair makes "
                f"{len(other.param_groups)}: give scheduler=callable(optimizer)"
            )
        for group, (rate, initial) in zip(other.param_groups, rates, strict=True):
            if "initial_lr" not in group:  # an edit has set another rate: where the schedule starts, not where it is
                group["initial_lr"] = float(group["lr"])
                group["lr"] = group["lr"] * (rate / initial if initial else 1.0)
        LambdaLR(other, lambda _: 1.0, last_epoch=0)  # marks the optimizer's step, which a scheduler looks for
        made = object.__new__(kind)
        vars(made).update(copy.deepcopy(state), optimizer=other)
        if hasattr(made, "base_lrs"):
            made.base_lrs = [float(group["initial_lr"]) for group in other.param_groups]
        return made

    return make
